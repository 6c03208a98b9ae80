"""Models written for Triton's Python backend, unmodified, in this process."""
