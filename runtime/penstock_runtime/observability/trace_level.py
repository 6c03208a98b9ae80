"""What is noted of a request that is traced. Imports nothing: those ask who only read settings."""

from enum import Flag


class Level(Flag):
    """What is noted; the names are Triton's."""

    OFF = 0
    TIMESTAMPS = 1
    TENSORS = 2
