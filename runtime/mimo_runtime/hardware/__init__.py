"""What this machine is: processors, memory, NVIDIA devices and their libraries."""
