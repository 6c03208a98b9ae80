"""Control messages (everything but inference), read with a bound on their size."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from penstock_runtime.errors import InvalidArgument

M = TypeVar("M", bound=Message)

MAX_CONTROL_BYTES = 1 << 20
"""A request that only names something; a bomb of nested messages stays small within it."""


def parse(kind: type[M], data: bytes, limit: int = MAX_CONTROL_BYTES) -> M:
    """The message in `data`; InvalidArgument when it is malformed or too large."""
    name = kind.DESCRIPTOR.name
    if len(data) > limit:
        raise InvalidArgument(f"{name} has {len(data)} bytes, expected at most {limit}")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidArgument(f"{name} is malformed, or a text in it is not UTF-8") from None
