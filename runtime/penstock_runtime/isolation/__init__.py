"""Models in processes of their own: what one of them does to its process stays there."""
