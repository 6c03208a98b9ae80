"""A serialized ModelInferRequest becomes an InferRequest, or an error that says why not.

Raw tensors stay views on the message's bytes. What is checked here is what the message itself must
get right; names, shapes and sizes are held against the model by the engine.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from penstock.codec.envelope import (
    Envelope,
    Source,
    open_envelope,
    recall,
    refuse,
    refuse_missing_data,
)
from penstock.codec.parameters import NO_OPTIONS, read_options, with_forwarded
from penstock.codec.prescan import Parts, split
from penstock.codec.templates import kinds_of_length, notice
from penstock.codec.wire import Buffer, shown
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.memory.places import PlacedRequest
from penstock_runtime.request import InferRequest
from penstock_runtime.tensor import Tensor

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
MAX_ID_BYTES = 1024
# Line and paragraph separators end a line in a log as surely as a line feed does.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def decode_request(
    data: Buffer,
    now_ns: int,
    deadline_ns: int | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    forwarded: Mapping[str, str] = NO_HEADERS,
    *,
    places: bool = False,
) -> InferRequest:
    """The request in `data`, received at `now_ns` (monotonic).

    A raw input's array is a memoryview on `data`, which must not change while the request lives; an
    input with typed contents has a flat numpy array. Neither has been held against the shape yet.
    `forwarded` are the headers that join the parameters. With `places` it may use shared memory:
    then it is a PlacedRequest.

    InvalidArgument when the request is malformed, over a limit or contradicts itself (a raw BOOL
    byte other than 0 and 1 does); Unsupported when it uses shared memory and must not.
    """
    if type(data) is bytes and not forwarded:
        for template in kinds_of_length(len(data), ()):
            identity = template.identity(data)
            if identity is not None:
                return template.request(data, identity, now_ns, deadline_ns)
    plain = data if type(data) is bytes and not forwarded else None
    return decode_parts(split(data), now_ns, deadline_ns, headers, forwarded, plain, places)


def decode_parts(
    parts: Parts,
    now_ns: int,
    deadline_ns: int | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    forwarded: Mapping[str, str] = NO_HEADERS,
    data: bytes | None = None,
    places: bool = False,
) -> InferRequest:
    """As `decode_request` for a request that has been taken apart; `data` is all of it, if others
    of its kind may be recognised by their bytes.
    """
    request_id = _read_id(parts.id) if parts.id else ""
    options = read_options(parts.parameters) if parts.parameters else NO_OPTIONS
    parameters = with_forwarded(options.parameters, forwarded) if forwarded else options.parameters
    envelope = recall(parts.head) or open_envelope(parts, places=places)
    arrays: Sequence[Any] = parts.raws if envelope.typed is None else envelope.typed
    kind = InferRequest
    if envelope.sources is not None:
        kind, arrays = PlacedRequest, _sourced(envelope, envelope.sources, parts.raws)
    elif len(arrays) != len(envelope.names):
        _refuse_raw_count(envelope.names, envelope.model_name, len(arrays))
    for index in envelope.bools:
        check_bools(envelope.names[index], envelope.model_name, parts.raws[index])
    if data is not None and kind is InferRequest:
        notice(data, parts, envelope, options)
    # By position: this is on the path of every request, and keywords cost a tenth more.
    return kind(
        envelope.model_name,
        tuple(map(Tensor, envelope.names, envelope.datatypes, envelope.shapes, arrays)),
        envelope.model_version,
        request_id,
        envelope.outputs,
        parameters,
        headers,
        deadline_ns,
        options.priority,
        options.timeout_us,
        options.correlation_id,
        options.sequence_start,
        options.sequence_end,
        now_ns,
    )


def _sourced(
    envelope: Envelope, sources: tuple[Source, ...], raws: tuple[memoryview, ...]
) -> list[Any]:
    wanted = [index for index, source in enumerate(sources) if source is None]
    if len(raws) != len(wanted):
        names = tuple(envelope.names[index] for index in wanted)
        _refuse_raw_count(names, envelope.model_name, len(raws))
    arrays: list[Any] = list(sources)
    for index, raw in zip(wanted, raws, strict=True):
        if envelope.datatypes[index] is DataType.BOOL:
            check_bools(envelope.names[index], envelope.model_name, raw)
        arrays[index] = raw
    return arrays


def _read_id(data: bytes) -> str:
    if len(data) > MAX_ID_BYTES:
        _refuse_id(f"the request id has {len(data)} bytes, expected at most {MAX_ID_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        _refuse_id("the request id is not UTF-8")
    if not text.isprintable() and _CONTROL.search(text):
        _refuse_id("the request id has control characters")
    return text


def _refuse_id(text: str) -> NoReturn:
    raise InvalidArgument(text, violations=(Violation("id", text),))


def _refuse_raw_count(names: tuple[str, ...], model: str, count: int) -> NoReturn:
    """Refuse so many raw entries for the inputs of these names."""
    expected = len(names)
    if count < expected:
        refuse_missing_data(names[count], model)
    text = f"expected {expected} raw_input_contents for model '{shown(model)}', got {count}"
    raise InvalidArgument(text, violations=(Violation("raw_input_contents", text),))


def check_bools(name: str, model: str, raw: memoryview) -> None:
    """Refuse bytes other than 0 and 1: numpy and torch would each take them for something else."""
    largest = int(np.frombuffer(raw, np.uint8).max()) if len(raw) else 0
    if largest > 1:
        text = (
            f"input '{shown(name)}' for model '{shown(model)}' has the byte {largest}"
            " in BOOL data, expected 0 or 1"
        )
        refuse(text, name)
