"""Tests whose servers live as long as they do."""
