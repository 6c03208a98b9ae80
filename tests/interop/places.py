"""Servers to meet: one for every transport and way of serving, started when first asked for."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from tests.interop.jobs import Place
from tests.interop.models import build
from tests.server_process import server_process


class Servers:
    """The servers of one run of tests; they end with the block. They live on one repository, and a
    certificate for 127.0.0.1 by an authority of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._repository = folder / "repository"
        self._authority = folder / "authority.pem"
        self._certificate = folder / "certificate.pem"
        self._key = folder / "key.pem"
        self._open = contextlib.ExitStack()
        self._places: dict[tuple[str, str], Place] = {}

    def __enter__(self) -> Self:
        build(self._repository)
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(self._authority)
        issued.private_key_pem.write_to_path(self._key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self._certificate, append=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def place(self, transport: str, way: str = "plain") -> Place:
        """The server that uses this transport; `way` is plain, compressing or secure."""
        if (transport, way) not in self._places:
            authority = str(self._authority) if way == "secure" else ""
            address = self._start(transport, self._flags(way))
            self._places[transport, way] = Place(address, authority)
        return self._places[transport, way]

    def _flags(self, way: str) -> tuple[str, ...]:
        match way:
            case "compressing":
                return ("--grpc-infer-response-compression-level=high",)
            case "secure":
                return (
                    "--grpc-use-ssl",
                    f"--grpc-server-cert={self._certificate}",
                    f"--grpc-server-key={self._key}",
                )
            case _:
                return ()

    def _start(self, transport: str, flags: tuple[str, ...]) -> str:
        server = self._open.enter_context(
            server_process(
                self._repository,
                f"--transport={transport}",
                "--grpc-header-forward-pattern=^x-",
                *flags,
            )
        )
        address = server.address()
        server.wait_for("ready")
        return address
