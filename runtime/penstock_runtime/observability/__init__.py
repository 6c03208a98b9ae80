"""Metrics, statistics and the access log."""
