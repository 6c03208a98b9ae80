"""SETTINGS: what each side tells the other about itself, parsed and checked (RFC 9113, 6.5.2)."""

from struct import Struct

from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import (
    DEFAULT_WINDOW,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    MIN_FRAME_SIZE,
    SETTINGS,
    ErrorCode,
    frame,
)

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE_ID = 0x5
MAX_HEADER_LIST_SIZE = 0x6

ENTRY_SIZE = 6
_ENTRY = Struct(">HI")
_NAMES = {
    HEADER_TABLE_SIZE: "header_table_size",
    ENABLE_PUSH: "enable_push",
    MAX_CONCURRENT_STREAMS: "max_concurrent_streams",
    INITIAL_WINDOW_SIZE: "initial_window_size",
    MAX_FRAME_SIZE_ID: "max_frame_size",
    MAX_HEADER_LIST_SIZE: "max_header_list_size",
}
_RANGES = {
    ENABLE_PUSH: (0, 1, ErrorCode.PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE_ID: (MIN_FRAME_SIZE, MAX_FRAME_SIZE, ErrorCode.PROTOCOL_ERROR),
}


class Settings:
    """The settings of one side, at first those that hold before any SETTINGS frame.

    `max_concurrent_streams` and `max_header_list_size` are None while unlimited.
    """

    __slots__ = tuple(_NAMES.values())

    def __init__(self) -> None:
        self.header_table_size = 4096
        self.enable_push = 1
        self.max_concurrent_streams: int | None = None
        self.initial_window_size = DEFAULT_WINDOW
        self.max_frame_size = MIN_FRAME_SIZE
        self.max_header_list_size: int | None = None

    def apply(self, payload: bytes) -> None:
        """Take over what a SETTINGS frame says; ConnectionFault where a value is not allowed.

        The last of several values counts; unknown settings are ignored, as the RFC demands.
        """
        if len(payload) % ENTRY_SIZE:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR,
                f"SETTINGS of {len(payload)} bytes, expected a multiple of {ENTRY_SIZE}",
            )
        for identifier, value in _ENTRY.iter_unpack(payload):
            name = _NAMES.get(identifier)
            if name is not None:
                _check(identifier, name, value)
                setattr(self, name, value)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"<Settings {fields}>"


def _check(identifier: int, name: str, value: int) -> None:
    bounds = _RANGES.get(identifier)
    if bounds is None:
        return
    low, high, code = bounds
    if not low <= value <= high:
        raise ConnectionFault(code, f"setting {name} is {value}, expected {low} to {high}")


def settings_frame(entries: dict[int, int]) -> bytes:
    """A SETTINGS frame with these values by identifier, in this order."""
    payload = b"".join(_ENTRY.pack(identifier, value) for identifier, value in entries.items())
    return frame(SETTINGS, 0, 0, payload)
