"""Latency, memory and accuracy of bundles, beside what a bundle replaces."""
