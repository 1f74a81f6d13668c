"""The command line of mimo-bench; heavy imports happen inside the command that needs them."""
