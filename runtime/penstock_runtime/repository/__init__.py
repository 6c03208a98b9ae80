"""The model repository: what is on the shelf, and how it gets loaded."""
