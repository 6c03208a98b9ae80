"""Kernels as models: those of this project by name, and a `model.cu` of one's own."""
