"""The wire as protobuf messages, built in a private pool so that they clash with no client's."""
