"""Models written for TorchServe: a `.mar` archive, or a folder with what is in one."""
