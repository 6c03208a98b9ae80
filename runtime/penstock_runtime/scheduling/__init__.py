"""Batchers decide, schedulers act."""
