"""Tokens that are proposed ahead of the model, and how it accepts or rejects them."""
