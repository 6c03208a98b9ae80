"""Servers to meet: one for every transport and way of serving, started when first asked for."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.interop.jobs import Place
from tests.interop.models import build
from tests.server_process import server_process

FLAGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "compressing": ("--grpc-infer-response-compression-level=high",),
}


class Servers:
    """The servers of one run of tests; they end with the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()
        self._places: dict[tuple[str, str], Place] = {}

    def __enter__(self) -> Self:
        build(self._folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def place(self, transport: str, way: str = "plain") -> Place:
        """The server that uses this transport in this way."""
        if (transport, way) not in self._places:
            self._places[transport, way] = self._start(transport, FLAGS[way])
        return self._places[transport, way]

    def _start(self, transport: str, flags: tuple[str, ...]) -> Place:
        server = self._open.enter_context(
            server_process(
                self._folder,
                f"--transport={transport}",
                "--grpc-header-forward-pattern=^x-",
                *flags,
            )
        )
        address = server.address()
        server.wait_for("ready")
        return Place(address)
