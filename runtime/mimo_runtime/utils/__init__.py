"""Helpers without a subject of their own: atomic writes and a cache."""
