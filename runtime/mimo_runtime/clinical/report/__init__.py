"""The report of a study: its content, and its layout as a page and as a PDF."""
