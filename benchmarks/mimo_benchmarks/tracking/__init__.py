"""Synthetic video with exact masks, and how well and how fast a model tracks in it."""
