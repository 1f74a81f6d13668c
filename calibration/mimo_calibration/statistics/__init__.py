"""Activation statistics and the ranges that come from them."""
