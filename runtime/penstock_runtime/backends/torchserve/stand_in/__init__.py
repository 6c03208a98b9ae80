"""What handlers import from torchserve, for a server without torchserve: written for penstock, and
visible to the code of such a model alone.
"""
