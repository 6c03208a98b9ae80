"""One HTTP request as the handlers of calls see it, whichever port it came to."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

from penstock.auth.caller import ANYONE, Permit
from penstock.rest.problems import NO_HEADERS
from penstock.transport.base import Metadata
from penstock.transport.http2.grpc_timeout import parse_timeout
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.request import InferRequest, InferResponse

TIMEOUT_HEADER = "grpc-timeout"

Scope = Mapping[str, Any]


class HttpCall:
    """A request over HTTP: where it comes from, its headers, how long its caller waits."""

    __slots__ = (
        "_scope",
        "deadline_ns",
        "metadata",
        "method",
        "permit",
        "request",
        "response",
        "told",
    )

    def __init__(self, scope: Scope, method: str) -> None:
        self._scope = scope
        self.method = method
        self.metadata: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.deadline_ns: int | None = None
        self.permit: Permit = ANYONE
        self.told: Mapping[str, str] = NO_HEADERS
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None

    @property
    def peer(self) -> str:
        """Where the request comes from, as gRPC shows it."""
        client = self._scope.get("client")
        if client is None:
            return "unix:"
        host, port = client
        return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def read_deadline(self) -> None:
        """Take the deadline off the header grpc-timeout, if there is one; InvalidArgument."""
        given = self.metadata.get(TIMEOUT_HEADER)
        if given is None:
            return
        timeout_ns = parse_timeout(given.encode("latin-1"))
        if timeout_ns is None:
            raise InvalidArgument(
                f"header {TIMEOUT_HEADER}: expected up to 8 digits and one of n, u, m, S, M, H,"
                " as in 500m"
            )
        self.deadline_ns = time.monotonic_ns() + timeout_ns

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this with the answer: over HTTP that is among its headers."""
        self.told = {key: value for key, value in metadata if isinstance(value, str)}

    @property
    def write(self) -> Callable[[bytes], Awaitable[None]]:
        """For calls with many messages, which these are not."""
        _no_stream()

    @property
    def write_many(self) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        """As `write`."""
        _no_stream()

    def abort(self, _error: PenstockError) -> None:
        """As `write`."""
        _no_stream()


def _no_stream() -> NoReturn:
    raise RuntimeError("a call over HTTP has one answer")
