"""Options of memory that clients share with the server."""

from dataclasses import dataclass

from penstock.options.flag import option


@dataclass(frozen=True)
class SharedMemoryOptions:
    """Memory that clients share with the server."""

    allow_client_shm: bool = option(
        False,
        "memory",
        "Clients may register system and CUDA shared memory, and use what anyone has registered. "
        "The server opens any object of /dev/shm that its user may write: for clients that are "
        "trusted.",
    )
    max_shm_regions: int = option(
        1024,
        "memory",
        "Regions that clients may have registered, all together; each holds a file descriptor.",
        minimum=1,
    )
