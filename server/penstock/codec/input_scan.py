"""The second level of the pre-scan: each input and output of a request held against its limits
before protobuf builds anything from it. Typed contents are counted by `contents_scan`.
"""

from dataclasses import dataclass
from math import prod

from penstock.codec.contents_scan import (
    MOST_FIELDS_OF_ALL,
    ContentsCounter,
    PackedFloats,
    too_many_fields,
)
from penstock.codec.wire import (
    LENGTH,
    VARINT,
    Field,
    expect_length,
    fields,
    read_varint,
    shown,
)
from penstock_runtime.errors import InvalidArgument

MAX_DIMS = 32
MAX_PARAMETERS = 64
_BYTES_NAME = b"BYTES"
_BYTES_DATATYPE = b"\x12\x05BYTES"
_INPUTS, _OUTPUTS = 5, 6
_NAME, _DATATYPE, _SHAPE, _INPUT_PARAMETERS, _CONTENTS = range(1, 6)
_OUTPUT_PARAMETERS = 2
_PLAIN_LENGTHS = {0x0A: 127, 0x12: 127, 0x1A: MAX_DIMS}
_INPUT_FIELDS = ("", "name", "datatype", "shape", "parameters", "contents")
_MOST_FIELDS = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """All inputs of a request: the memory (bytes) that typed contents will take, whether an input
    is BYTES, and where floats can be viewed instead of converted (one entry per input).
    """

    typed_bytes: int
    has_bytes: bool
    floats: tuple[PackedFloats | None, ...]


@dataclass(slots=True)
class _Input:
    """What one input holds, as far as it has been walked."""

    name: str = ""
    has_bytes: bool = False
    dims: tuple[int, ...] = ()
    parameters: int = 0
    fields: int = 0

    @property
    def elements(self) -> int:
        """How many elements the shape holds; 0 while a dimension is negative."""
        return prod(self.dims) if all(dim >= 0 for dim in self.dims) else 0


def measure(head: bytes) -> Measured:
    """Walk the inputs and outputs of a request whose top level has been checked."""
    walked = typed_bytes = 0
    has_bytes = False
    floats: list[PackedFloats | None] = []
    for number, _, start, stop in fields(head, 0, len(head), _MOST_FIELDS):
        if number == _OUTPUTS:
            walked += 1 if _is_plain(head, start, stop) else _check_output(head, start, stop)
        elif number == _INPUTS and _is_plain(head, start, stop):
            walked += 1
            has_bytes |= head.find(_BYTES_DATATYPE, start, stop) >= 0
            floats.append(None)
        elif number == _INPUTS:
            found = _Input()
            contents = _walk_input(head, start, stop, found)
            counter = ContentsCounter(found.name, found.has_bytes, found.elements)
            counter.walk(head, contents)
            walked += found.fields + counter.steps
            has_bytes |= found.has_bytes
            typed_bytes += counter.size
            floats.append(counter.floats)
        if walked > MOST_FIELDS_OF_ALL:
            too_many_fields()
    return Measured(typed_bytes, has_bytes, tuple(floats))


def _is_plain(head: bytes, at: int, end: int) -> bool:
    """Whether a tensor is no more than a name, a datatype and a short packed shape, in this order:
    then there is nothing to count, as a dimension takes a byte at least.
    """
    previous = 0
    while at + 1 < end:
        tag, length = head[at], head[at + 1]
        if tag <= previous or length > _PLAIN_LENGTHS.get(tag, -1):
            return False
        previous = tag
        at += 2 + length
    return at == end


def _check_output(head: bytes, start: int, stop: int) -> int:
    """Hold a requested output against its limits; how many fields it has."""
    count = parameters = 0
    for field in fields(head, start, stop, _MOST_FIELDS):
        count += 1
        if field[0] == _NAME:
            expect_length(field, "outputs.name")
        elif field[0] == _OUTPUT_PARAMETERS:
            expect_length(field, "outputs.parameters")
            parameters += 1
            if parameters > MAX_PARAMETERS:
                raise InvalidArgument(f"an output has more than {MAX_PARAMETERS} parameters")
    return count


def _walk_input(head: bytes, start: int, stop: int, found: _Input) -> list[tuple[int, int]]:
    """Fill in `found`; where the input's contents lie (several are one, as protobuf merges
    them).
    """
    contents: list[tuple[int, int]] = []
    for field in fields(head, start, stop, _MOST_FIELDS):
        number, wire_type, begin, end = field
        found.fields += 1
        if number == _SHAPE and wire_type in (VARINT, LENGTH):
            found.dims += _dims(head, field)
            _check_rank(found)
        elif number <= _CONTENTS:
            expect_length(field, f"inputs.{_INPUT_FIELDS[number]}")
            if number == _NAME:
                found.name = shown(head[begin:end].decode(errors="replace"))
            elif number == _DATATYPE:
                found.has_bytes = head[begin:end] == _BYTES_NAME
            elif number == _CONTENTS:
                contents.append((begin, end))
            else:
                _count_parameter(found)
    return contents


def _dims(head: bytes, field: Field) -> tuple[int, ...]:
    """Dimensions of one shape field, packed or not; those past the limit are not read."""
    _, _, at, end = field
    dims: list[int] = []
    while at < end and len(dims) <= MAX_DIMS:
        dim, at = read_varint(head, at, end)
        dims.append(dim - (1 << 64) if dim >> 63 else dim)
    return tuple(dims)


def _check_rank(found: _Input) -> None:
    if len(found.dims) > MAX_DIMS:
        raise InvalidArgument(
            f"the shape of input '{found.name}' has more than {MAX_DIMS} dimensions"
        )


def _count_parameter(found: _Input) -> None:
    found.parameters += 1
    if found.parameters > MAX_PARAMETERS:
        raise InvalidArgument(f"input '{found.name}' has more than {MAX_PARAMETERS} parameters")


def holds_bytes(head: bytes) -> bool:
    """Whether an input of this head may be BYTES; a cheap look that errs on the side of yes."""
    return _BYTES_DATATYPE in head
