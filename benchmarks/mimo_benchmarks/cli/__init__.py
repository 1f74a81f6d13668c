"""The command line of mimo-bench; each command imports heavy modules when it runs."""
