"""Requests that are like one that came before: equal in every byte but the id and the raw data.

Most callers send the same kind of request over and over. Once a kind has been seen twice it becomes
a template, and the next of its kind is recognised by comparing bytes and is never parsed. Memory is
bounded in number and in size; what is compared is everything that the request depends on.
"""

import re
from math import prod
from typing import Any, NamedTuple

import numpy as np

from penstock.codec.envelope import Envelope
from penstock.codec.parameters import RequestOptions
from penstock.codec.prescan import ID, RAW, Parts
from penstock.codec.wire import fields
from penstock_runtime.datatype import DataType
from penstock_runtime.request import NO_HEADERS, InferRequest
from penstock_runtime.tensor import Tensor

_MOST_FIELDS = 64
_LONGEST_MESSAGE = 64 << 10
_LONGEST_FIXED = 2048
_MOST_LENGTHS = 512
_MOST_OF_A_LENGTH = 4
_MOST_SEEN = 1024
_PLAIN_ID = re.compile(rb"[ -~]*").fullmatch


class _Slot(NamedTuple):
    """One input: its name, datatype and shape, and where its data begins."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Template:
    """One kind of request, of one length. Requests made of it have it as their `likeness`."""

    __slots__ = ("_first", "_id", "_only", "_rest", "_slots", "envelope", "options")

    def __init__(
        self,
        envelope: Envelope,
        options: RequestOptions,
        fixed: tuple[tuple[int, bytes], ...],
        identity: tuple[int, int],
        slots: tuple[_Slot, ...],
    ) -> None:
        self.envelope = envelope
        self.options = options
        self._first = fixed[0][1]
        self._rest = fixed[1:]
        self._id = identity
        self._slots = slots
        self._only = slots[0] if len(slots) == 1 else None

    def identity(self, data: bytes) -> str | None:
        """The id of the request in `data`, which has the template's length, "" for none; None when
        it is a request of another kind.
        """
        if not data.startswith(self._first):
            return None
        for at, piece in self._rest:
            if not data.startswith(piece, at):
                return None
        begin, end = self._id
        if not end:
            return ""
        identity = data[begin:end]
        # Anything but printable ASCII is left to the careful path, which refuses some of it.
        return identity.decode() if _PLAIN_ID(identity) is not None else None

    def arrays(self, data: bytes) -> dict[str, Any]:
        """The inputs of a request of this kind by name: views on `data` in their shapes."""
        only = self._only
        if only is not None:
            name, _, shape, dtype, offset = only
            return {name: np.ndarray(shape, dtype, data, offset)}
        return {
            name: np.ndarray(shape, dtype, data, offset)
            for name, _, shape, dtype, offset in self._slots
        }

    def request(
        self, data: bytes, identity: str, now_ns: int, deadline_ns: int | None
    ) -> InferRequest:
        """The request in `data`, whose id is known already."""
        known = self.envelope
        parameters, priority, timeout_us, correlation_id, starts, ends = self.options
        inputs = tuple(
            [
                Tensor(name, datatype, shape, np.ndarray(shape, dtype, data, offset))
                for name, datatype, shape, dtype, offset in self._slots
            ]
        )
        return InferRequest(
            known.model_name,
            inputs,
            known.model_version,
            identity,
            known.outputs,
            parameters,
            NO_HEADERS,
            deadline_ns,
            priority,
            timeout_us,
            correlation_id,
            starts,
            ends,
            now_ns,
            self,
        )


_KNOWN: dict[int, tuple[Template, ...]] = {}
_SEEN: set[tuple[int, bytes, bytes, int]] = set()

kinds_of_length = _KNOWN.get
"""The templates of messages of so many bytes, if there are any."""


def notice(data: bytes, parts: Parts, envelope: Envelope, options: RequestOptions) -> None:
    """Remember a request that was read the careful way: a kind seen twice becomes a template."""
    if len(data) > _LONGEST_MESSAGE or len(parts.head) + len(parts.parameters) > _LONGEST_FIXED:
        return
    kind = (len(data), parts.head, parts.parameters, len(parts.id))
    if kind not in _SEEN:
        # Starting afresh costs each kind one careful reading more, and is safe from any thread.
        if len(_SEEN) >= _MOST_SEEN:
            _SEEN.clear()
        _SEEN.add(kind)
        return
    template = _learn(data, envelope, options)
    if template is not None:
        _remember(len(data), template)


def _remember(length: int, template: Template) -> None:
    if len(_KNOWN) >= _MOST_LENGTHS:
        _KNOWN.clear()
    _KNOWN[length] = (template, *_KNOWN.get(length, ())[: _MOST_OF_A_LENGTH - 1])


def _learn(data: bytes, envelope: Envelope, options: RequestOptions) -> Template | None:
    """The template of a request; None when more than its id and its raw numbers can differ."""
    if envelope.typed is not None or envelope.bools or not envelope.names:
        return None
    fixed: list[tuple[int, bytes]] = []
    identity, kept = (0, 0), 0
    starts: list[int] = []
    sizes: list[int] = []
    for number, _, start, stop in fields(data, 0, len(data), _MOST_FIELDS):
        if number == ID:
            if identity != (0, 0):
                return None
            identity = (start, stop)
        elif number == RAW:
            starts.append(start)
            sizes.append(stop - start)
        else:
            continue
        fixed.append((kept, data[kept:start]))
        kept = stop
    if kept < len(data):
        fixed.append((kept, data[kept:]))
    slots = _slots(envelope, starts, sizes)
    return Template(envelope, options, tuple(fixed), identity, slots) if slots else None


def _slots(envelope: Envelope, starts: list[int], sizes: list[int]) -> tuple[_Slot, ...]:
    """A slot for each input; none at all if one of them is not made of just the numbers of its
    shape.
    """
    slots = []
    described = zip(envelope.names, envelope.datatypes, envelope.shapes, strict=True)
    for (name, datatype, shape), start, size in zip(described, starts, sizes, strict=True):
        if datatype is DataType.BYTES or not shape or min(shape) < 1:
            return ()
        dtype = datatype.numpy
        if prod(shape) * dtype.itemsize != size:
            return ()
        slots.append(_Slot(name, datatype, shape, dtype, start))
    return tuple(slots)
