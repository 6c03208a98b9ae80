"""The health of one connection's server, as grpc.health.v1 tells it for as long as one listens."""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from penstock.client.base import Buffer
from penstock.client.channel import HEALTH_SERVICE
from penstock.client.http2_exchange import Exchange
from penstock_protos import health as health_pb
from penstock_runtime.errors import Status

_METHOD = "/grpc.health.v1.Health/Watch"
_REQUEST = health_pb.HealthCheckRequest(service=HEALTH_SERVICE).SerializeToString()


class HealthWatch(Exchange):
    """A call that goes on for as long as its connection. `told` hears whether the server serves,
    and None when it says no more. A server without a health service serves.
    """

    __slots__ = ("_told",)

    def __init__(self, told: Callable[[bool | None], None]) -> None:
        super().__init__(_METHOD, _REQUEST, b"", None)
        self._told = told

    @property
    def replayable(self) -> bool:
        """Never: it belongs to its connection."""
        return False

    def message(self, data: Buffer) -> None:
        """The health changed."""
        try:
            status = health_pb.HealthCheckResponse.FromString(bytes(data)).status
        except DecodeError:
            status = health_pb.HealthCheckResponse.UNKNOWN
        self._told(status == health_pb.HealthCheckResponse.SERVING)

    def tell(self) -> None:
        """The server says no more."""
        unknown = self.error is not None and self.error.status is Status.UNIMPLEMENTED
        self._told(True if unknown else None)
