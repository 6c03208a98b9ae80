"""What stands above a core while it is fuzzed: handlers and callers of every kind."""

from typing import Any

from penstock.transport.http2 import compression, connection, content, inflow, messages, outlet
from penstock.transport.http2.client_requests import field, request_block, timeout_field
from penstock.transport.http2.compression import compress
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.stream import Stream

MESSAGES = (b"", b"x" * 20, b"y" * 3_000, b"z" * 70_000, b"w" * 100_000)
PLAIN = request_block("/s/M", "a")
ZIPPED = request_block("/s/Z", "a", encoding="gzip", metadata=(("x-bin", b"\0\1"), ("x-a", "1")))
MOST_CALLS = 30
OPEN_AT_ONCE = 5

# Sizes from which a message is large, a read is long and so on; inputs are short, so that nothing
# would be large in them.
_SIZES: tuple[tuple[Any, str, int], ...] = (
    (compression, "LARGE", 150),
    (content, "LARGE", 150),
    (inflow, "LARGE", 150),
    (messages, "LARGE", 150),
    (connection, "CHUNK", 120),
    (content, "WAITED_FOR", 60),
    (outlet, "JOINED", 100),
)
_USUAL = tuple(getattr(module, name) for module, name, _ in _SIZES)


def shrink(wanted: bool) -> None:
    """Make everything large that is not quite small, or nothing but what is."""
    for (module, name, small), usual in zip(_SIZES, _USUAL, strict=True):
        setattr(module, name, small if wanted else usual)


def look_at(head: Any) -> None:
    """Ask for all that is known of a request."""
    _ = (head.metadata, head.binary_metadata, head.authority, head.timeout_ns, head.accepts)


def answer(server: Any, stream: Stream) -> None:
    """Answer a call in the way that belongs to its number."""
    message = MESSAGES[stream.id // 2 % len(MESSAGES)]
    kind = stream.id // 2 % 9
    if kind == 1:
        server.refuse(stream, 5, "not found ä%\n" * (stream.id % 500), (("x-bin", b"\0"),))
    elif kind == 2:
        server.send_head(stream)
        server.send_messages(stream, [message, b"", (message, b"more")])
        server.send_messages(stream, [b"same"] * 5)
        server.send_trailers(stream)
    elif kind == 3:
        server.send_messages(stream, [message])
        server.reset(stream, ErrorCode.CANCEL)
    elif kind == 4:
        server.send_messages(stream, [message])
        server.refuse(stream, 13, "broken")
    elif kind == 5:
        server.refuse(stream, 8, "long", (("x-long-bin", bytes(20_000)),))
    elif kind == 6:
        zipped = compress(message, "gzip", 1)
        server.respond(stream, zipped or message, compressed=zipped is not None)
    elif stream.id % 3 == 1:
        server.send_trailers(stream)
    else:
        server.respond(stream, message)


def call(client: Any, made: int) -> list[Stream]:
    """Open calls, as many as there is room for; `made` is how many there were."""
    opened: list[Stream] = []
    while client.room > 0 and len(client.streams) < OPEN_AT_ONCE and made < MOST_CALLS:
        message = MESSAGES[made % len(MESSAGES)]
        kind = made % 6
        if kind == 2:
            stream = client.open(PLAIN, held_back=True)
            client.send_messages(stream, [b"one", b"two"], end=made % 4 == 0)
        elif kind == 3:
            stream = client.open(PLAIN + timeout_field(10**9 * made))
            client.send_messages(stream, [message])
            client.end(stream)
        elif kind == 4:
            zipped = compress(message, "gzip", 1)
            stream = client.call(ZIPPED, zipped or message, compressed=zipped is not None)
        else:
            stream = client.call(PLAIN + field("x-id", str(made)), message)
        made += 1
        opened.append(stream)
        if made % 7 == 0:
            client.cancel(stream)
    return opened
