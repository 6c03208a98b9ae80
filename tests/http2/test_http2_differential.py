"""The same handlers on both transports: what calls come to, right, wrong and odd, is the same.

Where it is not, it is meant so, and stands in one table with the reason.
"""

import time
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http2.differential import Result, of_answer, of_call
from tests.http2.differential_cases import cases
from tests.http2.differential_table import DIFFERENCES, OWN_WORDS, meant
from tests.http2.frames import block, data, headers, message
from tests.http2.raw import RawClient, request_fields
from tests.http2.service import Serving, serving

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CASES = dict(cases())
Pair = tuple[Serving, Serving]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The service on both transports."""
    with ExitStack() as stack:
        yield stack.enter_context(serving("grpcio")), stack.enter_context(serving("http2"))


def asked(served: Serving, frames: Sequence[bytes]) -> Result:
    """What a raw client sees of stream 1."""
    with RawClient(served.address) as client:
        client.start()
        client.send(*frames)
        return of_answer(client, client.answer(1))


def comparable(result: Result, other: Result) -> Result:
    """Without the words of transports, if both have some."""
    worded = bool(result.text) and result.status not in (0, None)
    return replace(result, text="") if worded and OWN_WORDS.match(other.text) else result


@pytest.mark.parametrize("name", [name for name in CASES if meant(name) is None])
def test_odd_requests_come_to_the_same(name: str, pair: Pair) -> None:
    """Status, text, metadata, messages and how the stream ended."""
    theirs, ours = (asked(served, CASES[name]) for served in pair)

    assert comparable(ours, theirs) == comparable(theirs, theirs), f"{theirs}\n{ours}"


@pytest.mark.parametrize("name", [name for name in CASES if meant(name) is not None])
def test_what_differs_is_meant_to_differ(name: str, pair: Pair) -> None:
    """Ours answers as the table says; grpcio, where it answers, still does otherwise."""
    difference = meant(name)
    assert difference is not None

    ours = asked(pair[1], CASES[name])

    assert (ours.http, ours.status) == (difference.http, difference.status), ours
    assert bool(ours.text) == bool(ours.status)
    if not difference.silent:
        asking = (asked(pair[0], CASES[name]) for _ in range(difference.tries))
        told = ((theirs.http, theirs.status, theirs.ended_by) for theirs in asking)
        assert any(theirs != (ours.http, ours.status, "END_STREAM") for theirs in told)


def test_every_difference_has_its_case() -> None:
    """A row that fits nothing would hide that it is not needed any more."""
    unused = [one.cases for one in DIFFERENCES if not any(meant(name) is one for name in CASES)]

    assert unused == []


@pytest.fixture(scope="module")
def channels(pair: Pair) -> Iterator[tuple[Any, Any]]:
    """A grpcio client of each."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(grpc.insecure_channel(served.address, options=UNLIMITED))
            for served in pair
        )


def same(channels: tuple[Any, Any], path: str, messages: Any, **how: Any) -> Result:
    """What a grpcio client sees of both; fails where they differ."""
    how.setdefault("timeout", 30)
    streamed = not isinstance(messages, bytes)
    results = [
        of_call((one.stream_stream if streamed else one.unary_unary)(path), messages, **how)
        for one in channels
    ]
    assert results[0] == results[1], "\n".join(map(str, results))
    return results[0]


@pytest.mark.parametrize("path", ["/s/Echo", "/q/Echo", "/s/Double", "/s/Drain"])
@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_531, 70_000, 1 << 20, 20 << 20])
def test_messages_of_any_size_come_back(path: str, size: int, channels: tuple[Any, Any]) -> None:
    """Around the sizes of frames and windows, and far above."""
    raw = bytes(range(256)) * (size // 256) + bytes(size % 256)
    streamed = path in ("/s/Double", "/s/Drain")

    result = same(channels, path, [raw] if streamed else raw)

    assert result.status == 0


@pytest.mark.parametrize("compression", list(grpc.Compression))
@pytest.mark.parametrize("raw", [b"", b"abc", b"abc" * 100_000])
def test_compressed_messages_come_back(
    compression: Any, raw: bytes, channels: tuple[Any, Any]
) -> None:
    """By the client's choice, on calls and in streams."""
    assert same(channels, "/s/Echo", raw, compression=compression).status == 0
    assert same(channels, "/s/Double", [raw, b"", raw], compression=compression).status == 0


@pytest.mark.parametrize("level", ["low", "high"])
def test_answers_may_be_compressed(level: str) -> None:
    """A client cannot tell, whatever the transport."""
    raw = b"abc" * 100_000
    with ExitStack() as stack:
        both = tuple(
            stack.enter_context(
                grpc.insecure_channel(
                    stack.enter_context(serving(kind, compression_level=level)).address,
                    options=UNLIMITED,
                )
            )
            for kind in ("grpcio", "http2")
        )
        for one in (raw, b"", b"x"):
            assert same(both, "/q/Echo", one).status == 0
            assert same(both, "/s/Double", [one] * 3).status == 0


@pytest.mark.parametrize("path", ["/s/Refuse", "/q/Refuse", "/s/Break", "/s/Nothing", "/x/Y"])
def test_refused_calls_end_alike(path: str, channels: tuple[Any, Any]) -> None:
    """Status, text in any language, trailing metadata, binary too."""
    assert same(channels, path, b"x").status in (5, 12, 13)


@pytest.mark.parametrize("path", ["/s/RefuseStream", "/s/BreakStream", "/s/Nothing"])
def test_refused_streams_end_alike(path: str, channels: tuple[Any, Any]) -> None:
    """What was written before is kept."""
    assert same(channels, path, [b"x"]).status in (5, 12, 13)


@pytest.mark.parametrize("path", ["/s/Hang", "/q/Hang", "/s/HangStream", "/s/Flood"])
@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_calls_that_are_late_end_alike(
    path: str, timeout: float, channels: tuple[Any, Any], pair: Pair
) -> None:
    """The caller is told, and nobody waits any more."""
    streamed = path in ("/s/HangStream", "/s/Flood")
    for channel in channels:
        method = (channel.stream_stream if streamed else channel.unary_unary)(path)
        result = of_call(method, [b"x"] if streamed else b"x", timeout=timeout)
        assert result.status == 4
        assert "Deadline Exceeded" in result.text

    for served in pair:
        end = time.monotonic() + 10
        while served.service.inside and time.monotonic() < end:
            time.sleep(0.005)
        assert served.service.inside == 0


@pytest.mark.parametrize("path", ["/s/Hang", "/q/Hang", "/s/HangStream", "/s/Flood"])
def test_cancelled_calls_end_alike(path: str, channels: tuple[Any, Any], pair: Pair) -> None:
    """The handler learns it."""
    streamed = path in ("/s/HangStream", "/s/Flood")
    for channel, served in zip(channels, pair, strict=True):
        before = served.service.cancelled
        call = (
            channel.stream_stream(path)(iter([b"x"]), timeout=30)
            if streamed
            else channel.unary_unary(path).future(b"x", timeout=30)
        )
        end = time.monotonic() + 10
        while not served.service.inside and time.monotonic() < end:
            time.sleep(0.005)
        call.cancel()
        while served.service.cancelled == before and time.monotonic() < end:
            time.sleep(0.005)
        assert (served.service.inside, served.service.cancelled) == (0, before + 1)
        assert call.code() is grpc.StatusCode.CANCELLED


NAMES = st.from_regex(r"x-[a-z0-9_.-]{0,8}[a-z0-9]", fullmatch=True).filter(
    lambda name: not name.endswith("-bin")
)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    metadata=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    binary=st.lists(
        st.tuples(NAMES.map(lambda name: f"{name}-bin"), st.binary(max_size=40)), max_size=3
    ),
    hours=st.none() | st.integers(1, 1000),
)
def test_any_metadata_reaches_a_handler_alike(
    metadata: list[tuple[str, str]],
    binary: list[tuple[str, bytes]],
    hours: int | None,
    channels: tuple[Any, Any],
) -> None:
    """Names, values, several of a name, and the deadline."""
    timeout = None if hours is None else 3600.0 * hours

    how = {"metadata": (*metadata, *binary), "timeout": timeout}
    found = [of_call(one.unary_unary("/s/Describe"), b"", **how) for one in channels]

    assert {each.status for each in found} == {0}
    assert replace(found[0], messages=()) == replace(found[1], messages=())
    ours, theirs = (literal_eval(bytes(each.messages[0]).decode()) for each in found)
    assert ours[:3] == theirs[:3]
    for _, _, _, told in (ours, theirs):
        # gRPC's client repeats a time-out that it sent before if it is within some percent.
        assert told == (None if hours is None else pytest.approx(hours, rel=0.1, abs=1))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=st.lists(st.binary(max_size=300), max_size=12),
    path=st.sampled_from(["/s/Double", "/s/Drain"]),
)
def test_any_stream_is_answered_alike(
    messages: list[bytes], path: str, channels: tuple[Any, Any]
) -> None:
    """However many messages, of whatever sizes."""
    assert same(channels, path, messages).status == 0


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_streams_cut_into_any_frames_are_answered_alike(draw: st.DataObject, pair: Pair) -> None:
    """Messages that share frames, and frames that share messages."""
    bodies = draw.draw(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
    raw = b"".join(map(message, bodies))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    frames = [headers(1, block(request_fields("/s/Double")))]
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        frames.append(data(1, raw[start:stop]))
    frames.append(data(1, end=True))

    theirs, ours = (asked(served, frames) for served in pair)

    assert ours == theirs
    assert len(ours.messages) == 2 * len(bodies)
