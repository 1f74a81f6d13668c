"""Associations and requests: what crosses the network."""
