"""What the calls of a load carry."""

from itertools import islice

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.requests import (
    fresh_blocks,
    in_turn,
    split_at_id,
    traceparents,
    with_fresh_ids,
)
from penstock.cli.bench_requests import split_sets
from penstock.transport.http2.client_requests import request_block
from penstock_protos import inference as pb
from penstock_runtime.errors import InvalidArgument


def request_of(identity: str = "", raw: bytes = b"\x00" * 8) -> pb.ModelInferRequest:
    """A request with everything before and behind its id."""
    request = pb.ModelInferRequest(model_name="m", model_version="3", id=identity)
    request.parameters["priority"].int64_param = 2
    request.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(raw)
    return request


def joined(body: bytes | tuple[bytes, ...]) -> bytes:
    """The bytes that are sent."""
    return body if isinstance(body, bytes) else b"".join(body)


def test_bodies_take_turns() -> None:
    """Each as often as any other, in their order."""
    assert list(islice(in_turn([b"a", b"b", b"c"]), 7)) == [*[b"a", b"b", b"c"] * 2, b"a"]


def test_bodies_are_drawn_the_same_way_from_the_same_seed() -> None:
    """All of them come, and a run can be repeated."""
    bodies = [b"a", b"b", b"c"]
    first, again, other = (list(islice(in_turn(bodies, seed), 400)) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert min(first.count(body) for body in bodies) > 80


@given(st.text(max_size=20), st.sampled_from([8, 20_000]))
def test_a_fresh_id_changes_nothing_but_the_id(identity: str, size: int) -> None:
    """Every body is the request with another id, whatever id it had."""
    request = request_of(identity, b"x" * size)

    bodies = list(islice(with_fresh_ids([request.SerializeToString()]), 5))

    found = [pb.ModelInferRequest.FromString(joined(body)) for body in bodies]
    assert len({each.id for each in found}) == 5
    for each in found:
        each.id = identity
        assert each == request


@given(st.text(min_size=1, max_size=20))
def test_the_id_stands_where_serialisers_put_it(identity: str) -> None:
    """Servers that look for the usual order of fields find it."""
    head, tail = split_at_id(request_of(identity).SerializeToString())
    plain = request_of().SerializeToString()

    assert head + tail == plain
    assert pb.ModelInferRequest.FromString(head) == pb.ModelInferRequest(
        model_name="m", model_version="3"
    )


def test_what_is_no_message_cannot_have_an_id() -> None:
    """The error is that of every malformed message."""
    with pytest.raises(InvalidArgument, match="malformed message"):
        next(with_fresh_ids([b"\xff\xff"]))


def test_every_call_has_a_trace_context_of_its_own() -> None:
    """The form is that of W3C: version, trace, span, flags."""
    found = list(islice(traceparents(), 100))

    parts = [each.split("-") for each in found]
    assert len(set(found)) == 100
    assert {(len(trace), len(span)) for _, trace, span, _ in parts} == {(32, 16)}
    assert all(int(trace, 16) and int(span, 16) for _, trace, span, _ in parts)


@pytest.mark.parametrize(
    ("timeout_s", "most_s"), [(30.0, 30.0), (0.5, 0.5), (1e-6, 1e-3), (3600, 3600), (1e9, 1e5)]
)
def test_fresh_metadata_is_two_fields_that_differ_with_every_call(
    timeout_s: float, most_s: float
) -> None:
    """All else stays, and the deadline is hardly shorter than what was asked for."""
    block = request_block("/s/M", "host:1", metadata=(("k", "v"),))
    plain = list(hpack.Decoder().decode(block))

    blocks = list(islice(fresh_blocks(block, timeout_s), 50))

    decoded = [list(hpack.Decoder().decode(each)) for each in blocks]
    assert all(fields[: len(plain)] == plain for fields in decoded)
    assert {tuple(str(name) for name, _ in fields[len(plain) :]) for fields in decoded} == {
        ("grpc-timeout", "traceparent")
    }
    assert len({fields[-1] for fields in decoded}) == len({fields[-2] for fields in decoded}) == 50
    seconds = [_seconds(str(fields[-2][1])) for fields in decoded]
    assert 0 < min(seconds) <= max(seconds) <= max(most_s, 1e-3)


def _seconds(text: str) -> float:
    assert len(text) <= 9
    return int(text[:-1]) * {"u": 1e-6, "m": 1e-3}[text[-1]]


def test_a_name_that_comes_again_begins_the_next_request() -> None:
    """Several sets of inputs on one command line."""
    pairs = [("A", "1"), ("B", "2"), ("A", "3"), ("A", "4"), ("B", "5")]

    assert split_sets(pairs) == [{"A": "1", "B": "2"}, {"A": "3"}, {"A": "4", "B": "5"}]
    assert split_sets([]) == [{}]
