"""The version of penstock, in one place."""

__version__ = "0.1.0"
