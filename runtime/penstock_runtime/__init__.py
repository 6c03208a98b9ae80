"""The runtime of penstock: it knows models and time, and nothing of the wire."""
