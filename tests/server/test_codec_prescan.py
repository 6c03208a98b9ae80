"""A request is held against its limits before anything is built from it."""

import tracemalloc
from typing import Any, SupportsIndex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.codec_strategies import field, message, requests

from penstock.codec import prescan
from penstock.codec.prescan import scan, split
from penstock.codec.request_encoder import encode_request
from penstock.codec.wire import fields
from penstock_protos.inference import InferParameter, ModelInferRequest
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
ONE = InferParameter(int64_param=1)
NAME = field(1, b"m")


class CountedBytes(bytes):
    """Bytes that know how often they were looked at."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        type(self).looks += 1
        return super().__getitem__(key)


def refusal(data: bytes) -> str:
    """The text with which the pre-scan refuses the bytes."""
    with pytest.raises(InvalidArgument) as caught:
        scan(data)
    return caught.value.message


@given(requests())
def test_parts_make_up_the_message(request: InferRequest) -> None:
    """Head, id, parameters and raw contents parse to the same message as the whole."""
    data = encode_request(request)

    head, identity, parameters, raws = split(data)

    rebuilt = ModelInferRequest.FromString(head + parameters)
    rebuilt.id = identity.decode()
    rebuilt.raw_input_contents.extend(bytes(raw) for raw in raws)
    assert rebuilt == ModelInferRequest.FromString(data)


@given(requests(), st.randoms(use_true_random=False))
def test_order_of_fields_does_not_matter(request: InferRequest, random: Any) -> None:
    """Fields may come in any order, as long as those of one number keep theirs."""
    data = encode_request(request)
    pieces = [data[begin:stop] for begin, stop in top_level(data)]
    order = [piece[0] for piece in pieces]
    random.shuffle(order)
    queues = {tag: iter([p for p in pieces if p[0] == tag]) for tag in order}
    shuffled = b"".join(next(queues[tag]) for tag in order)

    parts = split(shuffled)

    assert sorted(parts.id) == sorted(split(data).id)
    assert parts.raws == split(data).raws
    whole = ModelInferRequest.FromString(shuffled)
    whole.ClearField("raw_input_contents")
    whole.ClearField("id")
    assert ModelInferRequest.FromString(parts.head + parts.parameters) == whole


def top_level(data: bytes) -> list[tuple[int, int]]:
    """Where the top-level fields of a well-formed message begin and stop."""
    spans, at = [], 0
    for _, _, _, stop in fields(data, 0, len(data), 10_000):
        spans.append((at, stop))
        at = stop
    return spans


@given(requests(), st.booleans())
def test_plain_and_careful_walk_agree(request: InferRequest, as_view: bool) -> None:
    """The path of ordinary requests finds what the careful one finds."""
    data = encode_request(request)
    buffer = memoryview(data) if as_view else data

    plain = prescan._split_plain(buffer)

    assert plain == prescan._split_carefully(buffer)


@given(st.binary(max_size=40))
def test_plain_walk_accepts_nothing_that_the_careful_one_refuses(data: bytes) -> None:
    """Whatever the plain walk takes apart, the careful one takes apart alike."""
    plain = prescan._split_plain(data)

    if plain is not None:
        assert plain == prescan._split_carefully(data)


def test_raw_contents_are_views() -> None:
    """Raw tensors share the memory of the message."""
    data = message(raw_input_contents=[bytes(8), bytes(300)]).SerializeToString()

    raws = split(data).raws

    assert [len(raw) for raw in raws] == [8, 300]
    whole = np.frombuffer(data, np.uint8)
    assert all(np.shares_memory(np.frombuffer(raw, np.uint8), whole) for raw in raws)


BOMBS = {
    "inputs": (b"\x2a\x00", "more than 256 inputs"),
    "outputs": (b"\x32\x00", "more than 256 outputs"),
    "parameters": (b"\x22\x00", "more than 64 parameters"),
    "raw": (b"\x3a\x00", "more than 256 raw_input_contents"),
    "names": (b"\x0a\x00", "more than 1024 fields"),
    "unknown": (b"\x78\x00", "more than 1024 fields"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_is_refused_after_a_few_looks(kind: str) -> None:
    """60 MB of empty fields cost no more than the first few of them, in time and in memory."""
    piece, text = BOMBS[kind]
    bomb = CountedBytes(piece * 30_000_000)
    CountedBytes.looks = 0
    tracemalloc.start()

    message = refusal(bomb)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text in message
    assert CountedBytes.looks < 10_000
    assert peak < 1 << 20


def test_million_requested_outputs_are_refused() -> None:
    """Outputs are counted even if each is well formed."""
    assert "more than 256 outputs" in refusal(NAME + field(6, field(1, b"o")) * 1_000_000)


@pytest.mark.parametrize(
    ("number", "count", "accepted"),
    [
        (4, 64, True),
        (4, 65, False),
        (5, 256, True),
        (5, 257, False),
        (6, 256, True),
        (6, 257, False),
        (7, 256, True),
        (7, 257, False),
    ],
)
def test_limits_are_exact(number: int, count: int, accepted: bool) -> None:
    """A request may reach each limit and not pass it."""
    data = NAME + field(number, b"") * count

    if accepted:
        assert split(data).head.startswith(NAME)
    else:
        assert f"more than {count - 1}" in refusal(data)


MALFORMED = {
    "cut tag": (NAME + b"\x80", "cut off"),
    "cut length": (NAME + b"\x2a", "cut off"),
    "cut varint": (NAME + b"\x3a\xff\xff", "cut off"),
    "cut payload": (NAME + b"\x2a\x05\x0a", "claims 5 bytes, 1 are left"),
    "cut name": (b"\x0a\x05m", "claims 5 bytes, 1 are left"),
    "cut fixed": (NAME + b"\x79\x00", "claims 8 bytes, 1 are left"),
    "huge length": (NAME + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "are left"),
    "long varint": (NAME + b"\x2a" + b"\x80" * 10 + b"\x00", "more than 10 bytes"),
    "group": (NAME + b"\x7b\x7c", "is a group"),
    "group end": (NAME + b"\x7c", "is a group"),
    "known field as a group": (NAME + b"\x2b\x2c", "is a group"),
    "wire type 6": (NAME + b"\x7e", "wire type 6"),
    "field 0": (NAME + b"\x02\x00", "field number 0"),
    "name as varint": (b"\x08\x01", "'model_name' has wire type 0, expected 2"),
    "inputs as fixed32": (NAME + b"\x2d\x00\x00\x00\x00", "'inputs' has wire type 5"),
    "raw as fixed64": (NAME + b"\x39" + bytes(8), "'raw_input_contents' has wire type 1"),
    "input name as varint": (NAME + field(5, b"\x08\x01"), "'inputs.name' has wire type 0"),
    "shape as fixed32": (NAME + field(5, b"\x1d" + bytes(4)), "'inputs.shape' has wire type 5"),
    "cut shape": (NAME + field(5, b"\x1a\x01\x80" + field(9, b"")), "cut off"),
    "cut input": (NAME + field(5, b"\x0a\x09x"), "claims 9 bytes, 1 are left"),
    "output name as varint": (NAME + field(6, b"\x08\x01"), "'outputs.name' has wire type 0"),
    "output parameter as varint": (NAME + field(6, b"\x10\x01"), "'outputs.parameters'"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_message_is_refused_by_name(kind: str) -> None:
    """Bytes that break the wire format are refused, and the text says where."""
    data, text = MALFORMED[kind]

    assert text in refusal(data)


def test_unknown_fields_are_ignored() -> None:
    """Fields of numbers that this server does not know change nothing."""
    plain = message().SerializeToString()
    unknown = b"\x78\x01" + b"\x7d" + bytes(4) + b"\x79" + bytes(8) + field(15, b"abc")

    parts = split(unknown + plain + unknown)

    assert parts.raws == split(plain).raws
    parsed = ModelInferRequest.FromString(parts.head)
    assert parsed.inputs == message().inputs


def test_rank_is_limited_packed_or_not() -> None:
    """A shape may have 32 dimensions, not 33 and not a million."""
    packed = field(3, b"\x01" * 33)
    single = b"\x18\x01" * 33
    many = field(3, b"\x01" * 1_000_000)

    texts = {refusal(NAME + field(5, field(1, b"x") + shape)) for shape in (packed, single, many)}

    assert texts == {"the shape of input 'x' has more than 32 dimensions"}
    scan(message(inputs=[Input(name="x", shape=[1] * 32)]).SerializeToString())


def test_parameters_of_tensors_are_limited() -> None:
    """An input or an output may have 64 parameters, not more."""
    many = {f"k{i}": ONE for i in range(65)}
    few = {f"k{i}": ONE for i in range(64)}

    scan(message(inputs=[Input(parameters=few)]).SerializeToString())
    scan(message(outputs=[Output(parameters=few)]).SerializeToString())

    data = message(inputs=[Input(name="x", parameters=many)]).SerializeToString()
    assert refusal(data) == "input 'x' has more than 64 parameters"
    data = message(outputs=[Output(parameters=many)]).SerializeToString()
    assert refusal(data) == "an output has more than 64 parameters"


def test_pieces_of_all_tensors_are_limited() -> None:
    """Many inputs of many fields each are refused together."""
    piece = field(5, field(9, b"") * 100)

    assert "more than 4096 fields" in refusal(NAME + piece * 200)


def test_long_names_are_cut_in_texts() -> None:
    """A name of a megabyte does not come back in the error."""
    data = message(inputs=[Input(name="n" * (1 << 20), shape=[1] * 33)]).SerializeToString()

    assert len(refusal(data)) < 400
