"""Comparisons with other quantisers."""
