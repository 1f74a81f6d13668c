"""Overlays and annotated pictures."""
