"""The build report of a bundle."""
