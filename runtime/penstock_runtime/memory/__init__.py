"""Memory shared with clients or with devices."""
