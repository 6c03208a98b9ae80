"""Whether decoding a request takes long enough to hold up an event loop."""

from penstock.codec.input_scan import holds_bytes
from penstock.codec.prescan import split
from penstock.codec.wire import Buffer
from penstock_runtime.errors import InvalidArgument

CONTENTS_LIMIT = 64 << 10
_MESSAGE_LIMIT = 16 << 20


def is_heavy(data: Buffer) -> bool:
    """Whether a request should be decoded in a thread.

    True for a message above 16 MiB, and for typed contents or raw BYTES above 64 KiB. A malformed
    message is not heavy: it is refused before anything is built.
    """
    if len(data) <= CONTENTS_LIMIT:
        return False
    if len(data) > _MESSAGE_LIMIT:
        return True
    try:
        parts = split(data)
    except InvalidArgument:
        return False
    if len(parts.head) > CONTENTS_LIMIT:
        return True
    raw = sum(len(part) for part in parts.raws)
    return raw > CONTENTS_LIMIT and holds_bytes(parts.head)
