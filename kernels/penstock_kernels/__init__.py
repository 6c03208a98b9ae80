"""Array kernels of penstock: they know arrays, and nothing of models."""
