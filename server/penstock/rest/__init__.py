"""The HTTP port: the protocol's REST dialect and Triton's extensions of it."""
