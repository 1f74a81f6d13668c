"""Checkpoint to bundle: graphs are exported, checked against their contracts, compared with PyTorch, and written as one unit."""
