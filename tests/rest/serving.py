"""Servers with an HTTP port, and requests over it that no client would send."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from tests.e2e.running import Running, options

from penstock.config import ServerOptions

NUMBERS = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), dtype=np.int32)


def http_options(repositories: Sequence[Path], **more: object) -> ServerOptions:
    """Options for a quiet server on free loopback ports, that of HTTP among them."""
    settings: dict[str, object] = {
        "allow_http": True,
        "http_address": "127.0.0.1",
        "http_port": 0,
        **more,
    }
    return options(repositories, **settings)


def address(running: Running) -> str:
    """host:port of HTTP."""
    found = running.server.http_address
    assert found is not None
    return found


def url(running: Running, path: str) -> str:
    """The whole name of a path."""
    return f"http://{address(running)}{path}"


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    """A bare connection to the port."""
    host, _, port = address(running).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as made:
        yield made


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection, however it does."""
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    return got


def inputs(
    first: Any = NUMBERS, second: Any = ONES, *, binary: bool = True, module: Any = triton
) -> list[Any]:
    """INPUT0 and INPUT1 of `simple`."""
    made = []
    for name, array in (("INPUT0", first), ("INPUT1", second)):
        tensor = module.InferInput(name, list(array.shape), "INT32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


def document(**more: Any) -> dict[str, Any]:
    """A request to `simple`, with its data as JSON."""
    tensors = [
        {"name": name, "datatype": "INT32", "shape": [1, 16], "data": array.tolist()}
        for name, array in (("INPUT0", NUMBERS), ("INPUT1", ONES))
    ]
    return {"inputs": tensors, **more}
