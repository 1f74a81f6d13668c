"""The written files against the PyTorch modules that they come from."""
