"""Further passes of the mask decoder for small targets and ambiguous points."""
