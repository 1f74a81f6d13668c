"""Checks that are run as modules."""
