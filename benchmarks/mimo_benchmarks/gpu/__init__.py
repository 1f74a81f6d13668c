"""The acceptance run on a machine with an NVIDIA GPU: each part in a process and a time budget of its own."""
