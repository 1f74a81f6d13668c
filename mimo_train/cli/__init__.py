"""The commands of ``mimo-train``."""
