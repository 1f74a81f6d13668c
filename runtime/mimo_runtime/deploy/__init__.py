"""A bundle on its device: finished, verified, diagnosed."""
