"""HTTP/2 as gRPC needs it: a protocol core without I/O, and a thin adapter to the event loop."""
