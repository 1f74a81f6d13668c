"""Activation statistics, Q/DQ and accuracy-gated precision over graphs: never over modules (it does not import mimo_train)."""
