"""A CPU that executes CUDA source: for tests only, and left out of what is installed."""
