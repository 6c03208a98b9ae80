"""A stream as MLServer's clients read it: bare ModelInferResponses instead of Triton's wrapper.

The two forms cannot be told apart on the wire, so a caller asks for this one. It has no place for
an error, so the first one ends the stream with its status.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from penstock.codec.wire import read_field
from penstock.transport.base import Call, Metadata
from penstock.wishes import TRUE_STATUS_METADATA
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse


class BareCall:
    """A call whose messages go out without their wrapper; in all else it is the one that it has."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.metadata: Mapping[str, str] = {**call.metadata, TRUE_STATUS_METADATA: "true"}

    def __getattr__(self, name: str) -> object:
        # What the guard left on the call, or did not.
        return getattr(self._call, name)

    @property
    def request(self) -> InferRequest | None:
        """What errors speak of."""
        return self._call.request

    @request.setter
    def request(self, request: InferRequest | None) -> None:
        self._call.request = request

    @property
    def response(self) -> InferResponse | None:
        """What the log line speaks of."""
        return self._call.response

    @response.setter
    def response(self, response: InferResponse | None) -> None:
        self._call.response = response

    @property
    def method(self) -> str:
        """Full name."""
        return self._call.method

    @property
    def peer(self) -> str:
        """Where the call comes from."""
        return self._call.peer

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits any more."""
        return self._call.deadline_ns

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this at the end of a call that succeeds."""
        self._call.set_trailing_metadata(metadata)

    def abort(self, error: PenstockError) -> None:
        """End the call."""
        self._call.abort(error)

    @property
    def write(self) -> Callable[[bytes], Awaitable[None]]:
        """Sends a message."""
        write = self._call.write
        return lambda message: write(unwrapped(message))

    @property
    def write_many(self) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        """Sends several."""
        write_many = self._call.write_many
        return lambda messages: write_many([unwrapped(message) for message in messages])


def unwrapped(message: bytes) -> bytes:
    """The ModelInferResponse in a ModelStreamInferResponse, which holds nothing else."""
    _, _, start, stop = read_field(message, 0, len(message))
    return message[start:stop]
