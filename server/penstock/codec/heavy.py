"""Whether decoding a request takes long enough to hold up an event loop."""

from penstock.codec.envelope import open_envelope
from penstock.codec.input_scan import holds_bytes
from penstock.codec.prescan import split
from penstock.codec.wire import Buffer
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.memory.places import Place

CONTENTS_LIMIT = 64 << 10
_MESSAGE_LIMIT = 16 << 20
# Copying so many bytes takes about as long as the way to a thread.
PLACED_LIMIT = 256 << 10
_REGION = b"shared_memory_region"


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


def is_heavy_placed(data: Buffer) -> bool:
    """As `is_heavy`, where inputs may lie in shared memory: those are copied, and strings among
    them cut out. What is refused anyway is not heavy for what it has there.
    """
    if len(data) <= CONTENTS_LIMIT and _REGION not in bytes(data):
        return False
    # First: opening the head of such a message would take long itself.
    if is_heavy(data):
        return True
    try:
        # Wherever in the message it stands: data may come before it.
        parts = split(data)
        placed = _REGION in parts.head
        sources = open_envelope(parts, places=True).sources if placed else None
    except InvalidArgument:
        return False
    size = sum(source.byte_size for source in sources or () if type(source) is Place)
    return size > (CONTENTS_LIMIT if holds_bytes(parts.head) else PLACED_LIMIT)
