"""A look at a serialized ModelInferRequest before anything is built from it.

One walk over the top level counts the fields, so that a few megabytes of empty messages never
become millions of objects, and cuts out what differs from call to call: the id, the parameters and
the raw tensors (as views, not copies). `input_scan` looks one level deeper.
"""

from dataclasses import dataclass
from typing import NamedTuple

from penstock.codec.input_scan import measure
from penstock.codec.wire import Buffer, Field, expect_length, fields
from penstock_runtime.errors import InvalidArgument

MODEL_NAME, MODEL_VERSION, ID, PARAMETERS, INPUTS, OUTPUTS, RAW = range(1, 8)
_NAMES = (
    "",
    "model_name",
    "model_version",
    "id",
    "parameters",
    "inputs",
    "outputs",
    "raw_input_contents",
)
MOST_PARAMETERS, MOST_INPUTS, MOST_OUTPUTS = 64, 256, 256
_LIMITS = {
    PARAMETERS: MOST_PARAMETERS,
    INPUTS: MOST_INPUTS,
    OUTPUTS: MOST_OUTPUTS,
    RAW: MOST_INPUTS,
}
_MOST_FIELDS = 1024
# A message of no more fields than the least of the limits cannot break one of them.
_FEW_FIELDS = min(_LIMITS.values())
_KEPT_TAGS = frozenset({0x0A, 0x12, 0x2A, 0x32})


class Parts(NamedTuple):
    """A request taken apart: `head` is all but the id, the parameters and the raw contents.

    `id` is the bare text, `parameters` the entries with their tags (a message of its own).
    """

    head: bytes
    id: bytes
    parameters: bytes
    raws: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a request holds: its parts, the memory (bytes, an estimate) that its typed contents will
    take once decoded, and whether an input is BYTES.
    """

    parts: Parts
    typed_bytes: int
    has_bytes: bool

    @property
    def head(self) -> bytes:
        """The message without id, parameters and raw contents."""
        return self.parts.head

    @property
    def raws(self) -> tuple[memoryview, ...]:
        """Views on the message, one per entry of raw_input_contents."""
        return self.parts.raws


def scan(data: Buffer) -> Scanned:
    """Both levels of the request; InvalidArgument when malformed or over a limit."""
    parts = split(data)
    measured = measure(parts.head)
    return Scanned(parts, measured.typed_bytes, measured.has_bytes)


def split(data: Buffer) -> Parts:
    """The top level of the request; InvalidArgument when malformed or over a limit."""
    return _split_plain(data) or _split_carefully(data)


def _split_plain(data: Buffer) -> Parts | None:
    """The path of ordinary requests: few fields, none unknown. None for anything else.

    It refuses nothing itself, so that every refusal has one place and one text.
    """
    size, at, kept = len(data), 0, 0
    pieces: list[Buffer] = []
    raws: list[memoryview] = []
    identity: Buffer = b""
    parameters: list[Buffer] = []
    view: memoryview | None = None
    try:
        for _ in range(_FEW_FIELDS):
            if at >= size:
                break
            begin, tag, length = at, data[at], data[at + 1]
            at += 2
            if length > 127:
                length &= 127
                for shift in (7, 14, 21, 28):
                    byte = data[at]
                    at += 1
                    length |= (byte & 127) << shift
                    if byte < 128:
                        break
                else:
                    return None
            start, at = at, at + length
            if tag in _KEPT_TAGS:
                continue
            if begin > kept:
                pieces.append(data[kept:begin])
            kept = at
            if tag == 0x3A:
                if view is None:
                    view = memoryview(data)
                raws.append(view[start:at])
            elif tag == 0x1A:
                identity = data[start:at]
            elif tag == 0x22:
                parameters.append(data[begin:at])
            else:
                return None
    except IndexError:
        return None
    if at != size:
        return None
    if kept < size:
        pieces.append(data[kept:])
    return Parts(_join(pieces), bytes(identity), _join(parameters), tuple(raws))


def _split_carefully(data: Buffer) -> Parts:
    size, kept, begin = len(data), 0, 0
    counts = [0] * 8
    pieces: list[Buffer] = []
    raws: list[memoryview] = []
    identity: Buffer = b""
    parameters: list[Buffer] = []
    view = memoryview(data)
    for field in fields(data, 0, size, _MOST_FIELDS):
        number, _, start, stop = field
        _check(field, counts)
        if number in (ID, PARAMETERS, RAW):
            pieces.append(data[kept:begin])
            kept = stop
            if number == RAW:
                raws.append(view[start:stop])
            elif number == ID:
                identity = data[start:stop]
            else:
                parameters.append(data[begin:stop])
        begin = stop
    pieces.append(data[kept:])
    return Parts(_join(pieces), bytes(identity), _join(parameters), tuple(raws))


def _check(field: Field, counts: list[int]) -> None:
    number = field[0]
    if number >= len(counts):
        return
    expect_length(field, _NAMES[number])
    counts[number] += 1
    limit = _LIMITS.get(number)
    if limit is not None and counts[number] > limit:
        raise InvalidArgument(
            f"the request has more than {limit} {_NAMES[number]}, expected at most {limit}"
        )


def _join(pieces: list[Buffer]) -> bytes:
    if len(pieces) == 1 and type(pieces[0]) is bytes:
        return pieces[0]
    return b"".join(pieces)
