"""Backends: what turns a directory into something that executes."""
