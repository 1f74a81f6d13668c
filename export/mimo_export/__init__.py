"""Checkpoint to bundle: graphs are exported, held against their specifications, compared with PyTorch, and written as one."""
