"""The pre-scan of an input's typed contents: elements are counted, not read.

An input may carry a few more than its shape holds, so that the ordinary mistake gets the engine's
text; far more is refused before protobuf builds an object from any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from penstock.codec.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Field,
    read_field,
    read_varint,
)
from penstock_runtime.errors import InvalidArgument

MOST_FIELDS_OF_ALL = 4096
_FP32, _FP64, _BYTES = 6, 7, 8
_CONTENTS_FIELDS = (
    "",
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
)
_FIXED = {_FP32: (FIXED32, 4), _FP64: (FIXED64, 8)}
_BYTES_TAG = _BYTES << 3 | LENGTH
_SLACK = 4096
_MOST_STRINGS = 1 << 24
_HIGH_BYTES = bytes(range(128, 256))
# What a BYTES element takes beside its payload: a Python object, a reference, protobuf's own view.
_BYTES_ELEMENT = 64
_NUMBER = 8


@dataclass(frozen=True, slots=True)
class PackedFloats:
    """fp32_contents or fp64_contents that lie in the head as one run of little-endian floats."""

    double: bool
    start: int
    count: int


def too_many_fields() -> NoReturn:
    """Refuse a request whose tensors come in too many pieces."""
    raise InvalidArgument(
        f"the inputs and outputs of the request have more than {MOST_FIELDS_OF_ALL} fields"
    )


class ContentsCounter:
    """Counts the elements of an input's typed contents.

    `size` is the memory that they will take, `steps` how many fields they come in (a run of strings
    or of packed numbers is one).
    """

    def __init__(self, name: str, has_bytes: bool, elements: int) -> None:
        self._name = name
        self._has_bytes = has_bytes
        self._elements = elements
        self._most = max(self._elements, _SLACK)
        self._counts = [0] * len(_CONTENTS_FIELDS)
        self._run: PackedFloats | None = None
        self.steps = 0
        self.size = 0

    @property
    def floats(self) -> PackedFloats | None:
        """The run of floats that is all there is."""
        return self._run if self.steps == 1 else None

    def walk(self, head: bytes, spans: Sequence[tuple[int, int]]) -> None:
        """Count what lies in the spans, which one after another are the contents."""
        self._check_promise(sum(stop - start for start, stop in spans))
        for start, stop in spans:
            at = start
            while at < stop:
                self.steps += 1
                if self.steps > MOST_FIELDS_OF_ALL:
                    too_many_fields()
                at = self._take(head, at, stop)

    def _check_promise(self, size: int) -> None:
        """Refuse a shape that the contents cannot fill, before anything is counted up to it."""
        if self._has_bytes and self._elements > _MOST_STRINGS:
            raise InvalidArgument(
                f"input '{self._name}' has {self._elements} elements, expected at most "
                f"{_MOST_STRINGS} in bytes_contents"
            )
        if self._elements > size > _SLACK:
            raise InvalidArgument(
                f"the contents of input '{self._name}' have {size} bytes, too few for the "
                f"{self._elements} elements of its shape"
            )

    def _take(self, head: bytes, at: int, end: int) -> int:
        """Count what begins at `at`; where it stops."""
        if head[at] == _BYTES_TAG:
            return self._strings(head, at, end)
        field = read_field(head, at, end)
        number, wire_type, _, stop = field
        if number == _BYTES:
            raise InvalidArgument(
                f"malformed message: field 'bytes_contents' has wire type {wire_type}, "
                f"expected {LENGTH}"
            )
        if number < _BYTES:
            self._numbers(head, field)
        return stop

    def _strings(self, head: bytes, at: int, end: int) -> int:
        """A run of bytes_contents, in as few steps as Python allows: there may be millions."""
        begin, before = at, self._counts[_BYTES]
        count, most = before, self._most
        while at + 1 < end and head[at] == _BYTES_TAG and count <= most:
            length = head[at + 1]
            if length < 128:
                at += 2 + length
            else:
                length, at = read_varint(head, at + 1, end)
                at += length
            count += 1
        if at > end or (at < end and head[at] == _BYTES_TAG and count <= most):
            raise InvalidArgument(
                f"malformed message: bytes_contents of input '{self._name}' is cut off"
            )
        self._count(_BYTES, count - before)
        self.size += (count - before) * _BYTES_ELEMENT + at - begin
        return at

    def _numbers(self, head: bytes, field: Field) -> None:
        number, wire_type, start, stop = field
        fixed, width = _FIXED.get(number, (VARINT, 0))
        if wire_type == fixed:
            count = 1
        elif wire_type != LENGTH:
            raise InvalidArgument(
                f"malformed message: field '{_CONTENTS_FIELDS[number]}' has wire type {wire_type}, "
                f"expected {LENGTH} or {fixed}"
            )
        elif width:
            count = self._packed_floats(number, stop - start, width)
            self._run = PackedFloats(number == _FP64, start, count)
        else:
            # The last byte of a varint, and only that one, is below 128.
            count = len(head[start:stop].translate(None, _HIGH_BYTES))
        self.size += count * _NUMBER
        self._count(number, count)

    def _packed_floats(self, number: int, size: int, width: int) -> int:
        if size % width:
            raise InvalidArgument(
                f"malformed message: {_CONTENTS_FIELDS[number]} of input '{self._name}' has "
                f"{size} bytes, expected a multiple of {width}"
            )
        return size // width

    def _count(self, number: int, more: int) -> None:
        self._counts[number] += more
        if self._counts[number] > self._most:
            raise InvalidArgument(
                f"{_CONTENTS_FIELDS[number]} of input '{self._name}' has more than "
                f"{self._most} elements, its shape holds {self._elements}"
            )
