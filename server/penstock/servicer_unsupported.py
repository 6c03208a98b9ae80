"""Calls of the protocol that this server does not do: each says so, and what to do instead."""

from typing import NoReturn

from penstock.transport.base import Call
from penstock_runtime.errors import Unsupported

_NO_SHARED_MEMORY = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)


class UnsupportedServicer:
    """Answers UNIMPLEMENTED."""

    async def shared_memory_status(self, _data: bytes, _call: Call) -> bytes:
        """Regions of shared memory: there are none."""
        _refuse("shared memory is not available in this version, so there are no regions to list")

    async def shared_memory_change(self, _data: bytes, _call: Call) -> bytes:
        """Register or forget a region."""
        _refuse(_NO_SHARED_MEMORY)


def _refuse(text: str) -> NoReturn:
    raise Unsupported(text, reason="NOT_AVAILABLE")
