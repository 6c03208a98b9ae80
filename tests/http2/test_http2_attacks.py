"""Floods and bombs over a real socket: the right answer, neighbours untouched, nothing left."""

import logging
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.http2.attacks import (
    ECHO,
    FLOODS,
    GARBAGE,
    HANG,
    HELLO,
    HOLD,
    Attack,
    odd,
    rapid_reset,
    table_bomb,
    zip_bomb,
)
from tests.http2.frames import (
    PREFACE,
    Code,
    Setting,
    Type,
    block,
    data,
    headers,
    message,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import RawClient, eventually, name_of, request_fields
from tests.http2.service import Serving, serving
from tests.http2.under_attack import CROWD, LOOP, attacked
from tests.http2.under_attack import loop_name as loop_name

from penstock.transport.http2.limits import Limits, Rate

STRICT = replace(
    Limits(),
    max_concurrent_streams=CROWD,
    resets=Rate(200, 200),
    fragments=Rate(2_000, 2_000),
)
"""As the defaults, but for those that honest clients in a hurry need as large as they are."""


@pytest.mark.parametrize("attack", FLOODS, ids=lambda attack: attack.name)
def test_a_flood_ends_its_connection_alone(attack: Attack) -> None:
    """GOAWAY with the code that fits, and the defence is counted."""
    with attacked(limits=STRICT) as served:
        suffer(served, attack)


def test_the_usual_limits_end_a_rapid_reset() -> None:
    """Those that a server has without being told."""
    with attacked() as served:
        suffer(served, Attack("", rapid_reset(HANG, 12_000), Code.ENHANCE_YOUR_CALM, "resets"))


def suffer(served: Serving, attack: Attack) -> None:
    """The attack on a connection of its own, and what must come of it."""
    with RawClient(served.address) as client:
        client.start()
        # The peer may be told while it still sends.
        sending = threading.Thread(target=attack.act, args=(client,))
        sending.start()
        said = client.goaway()
        client.close()
        sending.join(30)

        assert said is not None, client.seen[-3:]
        assert said.code == attack.code, name_of(said.code)
        if attack.tally:
            assert served.defended(attack.tally) >= 1


@pytest.mark.parametrize("times", [20, 3_000])
def test_a_table_bomb_is_refused(times: int) -> None:
    """A block of some bytes that stands for megabytes of metadata."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        client.send(headers(1, table_bomb(times)), data(1, HELLO, end=True))
        answer = client.answer(1)

        assert answer.status == 8, answer
        assert client.call(3, b"next").messages == [b"next"]


def test_metadata_above_its_limit_is_refused() -> None:
    """RESOURCE_EXHAUSTED, counted, and the connection's header table stays in step."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        for stream in odd(20):
            fields = request_fields("/s/Echo", (b"x-%d" % stream, b"v" * 17_000))
            client.send(headers(stream, block(fields)), data(stream, HELLO, end=True))
            assert client.answer(stream).status == 8

        assert client.call(41, b"next").messages == [b"next"]
        assert served.defended("metadata_too_large") == 20


def test_an_oversized_message_is_refused_before_it_comes() -> None:
    """The length alone is enough; the connection's window comes back."""
    with attacked(max_message_bytes=100_000) as served, RawClient(served.address) as client:
        client.start()
        client.send(headers(1, ECHO), data(1, b"\0\xff\xff\xff\xff"))
        assert client.answer(1).status == 8
        for stream in range(3, 43, 2):
            client.send(headers(stream, ECHO), data(stream, message(bytes(100_001)), end=True))
            assert client.answer(stream).status == 8

        assert client.call(101, bytes(1000)).messages == [bytes(1000)]


def test_what_comes_on_dead_streams_costs_the_connection_no_window() -> None:
    """Twice the connection's window, on streams that were answered before it came."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        limit = client.peer_settings[Setting.MAX_FRAME_SIZE]
        piece = bytes(min(limit, 1 << 18))
        left = 65_535 + sum(
            int.from_bytes(one.payload)
            for one in client.seen
            if one.type == Type.WINDOW_UPDATE and one.stream == 0
        )
        sent, stream = 0, 1
        while sent < 2 * left:
            client.send(headers(stream, block(request_fields("/no/Method"))))
            assert client.answer(stream).status == 12
            client.send(data(stream, piece), data(stream, piece), rst_stream(stream))
            sent, stream = sent + 2 * len(piece), stream + 2
            client.fence()
        granted = sum(
            int.from_bytes(one.payload)
            for one in client.seen
            if one.type == Type.WINDOW_UPDATE and one.stream == 0
        )

        assert granted >= sent, (granted, sent)
        assert client.call(stream, bytes(1000)).messages == [bytes(1000)]


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Double"])
def test_a_decompression_bomb_is_refused(path: str) -> None:
    """Inflated no further than a message may be large."""
    with attacked(max_message_bytes=1 << 20) as served, RawClient(served.address) as client:
        client.start()
        raw = block(request_fields(path, (b"grpc-encoding", b"gzip")))
        client.send(headers(1, raw), data(1, zip_bomb(), end=True))

        assert client.answer(1).status == 8
        assert client.call(3, b"next").messages == [b"next"]


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
def test_what_is_not_http2_is_closed(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Without an answer that means anything, and without a line in the log."""
    with attacked() as served:
        for _ in range(20):
            with RawClient(served.address) as client:
                client.send(raw)
                for _ in client.frames():
                    pass

    assert [one for one in caplog.records if one.levelno >= logging.INFO] == []


def test_garbage_at_any_byte_ends_no_more_than_its_connection() -> None:
    """A conversation in which one byte is wrong, at every place in turn."""
    raw = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 70_000)) + window_update(0, 9)
    raw += headers(1, ECHO) + data(1, HELLO, end=True) + headers(3, HOLD) + data(3, HELLO)
    with attacked() as served:
        for at in range(len(raw)):
            with RawClient(served.address) as client:
                client.send(raw[:at], bytes((raw[at] ^ 0x55,)), raw[at + 1 :])
                client.socket.shutdown(socket.SHUT_WR)
                for _ in client.frames():
                    pass


def test_a_conversation_may_be_cut_at_any_byte() -> None:
    """Whoever leaves in the middle of anything leaves nothing behind."""
    raw = PREFACE + settings() + headers(1, HANG, flags=0)[:-3]
    raw = PREFACE + settings() + headers(1, HANG) + data(1, HELLO, end=True) + headers(3, HOLD)
    with attacked() as served:
        for at in range(0, len(raw), 3):
            with RawClient(served.address) as client:
                client.send(raw[:at])


LEAVING: dict[str, Callable[[RawClient], None]] = {
    "RST_STREAM": lambda client: client.send(*map(rst_stream, odd(4))),
    "close": RawClient.close,
    "half close": lambda client: client.socket.shutdown(socket.SHUT_WR),
    "TCP reset": lambda client: _hard(client.socket),
}


def _hard(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_a_caller_that_leaves_frees_its_calls(leave: Callable[[RawClient], None]) -> None:
    """Unary, quick, streamed, and a writer that waits for room."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        for stream, path in zip(
            odd(4), ("/s/Hang", "/q/Hang", "/s/HangStream", "/s/Flood"), strict=True
        ):
            client.request(stream, b"x", path)
        eventually(lambda: served.service.inside == 4, "four calls inside")

        leave(client)

        eventually(lambda: served.service.inside == 0, "no call inside")
        assert served.service.cancelled == 4


def test_more_calls_than_allowed_are_refused_and_forgotten() -> None:
    """Places that reset calls held are free again."""
    with (
        serving("http2", **LOOP, max_concurrent_rpcs=10) as served,
        RawClient(served.address) as client,
    ):
        client.start()
        for stream in odd(10):
            client.request(stream, b"x", "/s/Hang" if stream % 4 == 1 else "/q/Hang")
        eventually(lambda: served.service.inside == 10, "ten calls inside")
        assert client.call(21, b"x").status == 8

        client.send(*map(rst_stream, odd(10)))
        eventually(lambda: served.service.inside == 0, "no call inside")

        assert client.call(23, b"x").messages == [b"x"]


def test_idle_streams_beyond_the_limit_are_refused() -> None:
    """As many as are allowed stay open, the others get REFUSED_STREAM."""
    with attacked() as served, RawClient(served.address) as client:
        client.start()
        client.send(*(headers(n, HOLD) for n in odd(CROWD + 100)))
        client.fence()
        refused = [one for one in client.seen if one.type == Type.RST_STREAM]

        assert {one.code for one in refused} == {Code.REFUSED_STREAM}
        assert [one.stream for one in refused] == list(odd(CROWD + 100))[CROWD:]
        client.send(rst_stream(1))
        client.fence()
        assert client.call(2 * CROWD + 201, b"x").messages == [b"x"]
