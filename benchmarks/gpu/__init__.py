"""What is run first, and in one command, on a machine with a GPU: `scripts/gpu_check`."""
