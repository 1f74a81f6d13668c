"""Two revisions of this repository compared on the same bundle and the same questions."""
