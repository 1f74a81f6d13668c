"""Evaluations beyond accuracy: robustness and relations."""
