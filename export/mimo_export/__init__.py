"""Checkpoint to bundle: graphs are exported, held against their contracts, compared with PyTorch, and written as one."""
