"""The commands of ``mimo-run`` and what every command of the product shares."""
