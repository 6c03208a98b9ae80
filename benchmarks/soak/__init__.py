"""A long mixed load, with everything that clients do to a server, and whether it leaves traces."""
