"""Ways to serve the table of RPCs; each takes and gives bytes, and knows nothing of models."""
