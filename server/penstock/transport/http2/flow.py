"""Flow control, both ways, as arithmetic (RFC 9113, 5.2 and 6.9). Windows are bytes.

What we receive: a peer may have sent `base` bytes per stream that the application did not consume,
and the whole of a large message whose length is known and allowed. Credit goes back in halves of
the window, so that it costs a frame per half and not per message.
"""

from penstock.transport.http2.frames import MAX_WINDOW

MESSAGE_COST = 128
"""Bytes that a message which waits for the application counts for beside its own: even an empty
one takes memory."""


def credit_due(base: int, held: int, window: int) -> int:
    """What to give back to the peer of a stream now; 0 while it is not worth a frame.

    `held` bytes wait for the application; `window` is what the peer may still send.
    """
    due = base - held - window
    return due if due > 0 and due >= base >> 1 else 0


def credit_for_message(missing: int, window: int) -> int:
    """What the peer needs beyond its window to send the rest of a message; 0 if nothing."""
    return max(0, min(missing, MAX_WINDOW) - window)


def overflows(window: int, increment: int) -> bool:
    """Whether a window would grow beyond what HTTP/2 can count."""
    return window + increment > MAX_WINDOW
