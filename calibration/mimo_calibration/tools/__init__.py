"""Comparisons with other quantizers."""
