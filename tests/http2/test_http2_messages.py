"""Messages out of a stream's bytes, however these are cut; compression within its limits."""

import gzip
import random
import zlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.transport.http2.compression import (
    LARGE,
    LEVELS,
    SMALLEST,
    Inflater,
    MessageError,
    compress,
)
from penstock.transport.http2.messages import Assembler, prefix

LIMIT = 1 << 20


@dataclass
class Memory:
    """Counts what is reserved; refuses beyond `room`."""

    room: int = 1 << 40
    held: int = 0
    most: int = 0
    asked: list[int] = field(default_factory=list)

    def reserve(self, size: int) -> bool:
        self.asked.append(size)
        if self.held + size > self.room:
            return False
        self.held += size
        self.most = max(self.most, self.held)
        return True

    def release(self, size: int) -> None:
        self.held -= size
        assert self.held >= 0


def assembler(
    encoding: str | None = None, limit: int = LIMIT, memory: Memory | None = None
) -> Assembler:
    if memory is None:
        return Assembler(limit, encoding)
    return Assembler(limit, encoding, memory.reserve, memory.release)


def framed(message: bytes, encoding: str | None = None) -> bytes:
    """A message as it is sent; compressed if there is an encoding."""
    if encoding is None:
        return prefix(len(message)) + message
    packed = gzip.compress(message, 1, mtime=0) if encoding == "gzip" else zlib.compress(message, 1)
    return prefix(len(packed), compressed=True) + packed


def fed(under_test: Assembler, data: bytes) -> list[bytes | memoryview]:
    return under_test.feed(data, 0, len(data))


def refused(under_test: Assembler, data: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        fed(under_test, data)
    under_test.discard()
    return caught.value


sizes = st.one_of(
    st.integers(0, 40), st.sampled_from([LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]), st.just(0)
)
encodings = st.sampled_from([None, "gzip", "deflate"])


@settings(max_examples=60)
@given(st.lists(st.tuples(sizes, st.booleans()), max_size=6), encodings, st.data())
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
    plan: list[tuple[int, bool]], encoding: str | None, data: st.DataObject
) -> None:
    """Many in one frame, one over many, a prefix cut anywhere; frames read in place or fed."""
    draw = random.Random(3)
    messages = [draw.randbytes(size) for size, _ in plan]
    stream = b"".join(
        framed(message, encoding if packed else None)
        for message, (_, packed) in zip(messages, plan, strict=True)
    )
    memory = Memory()
    under_test = assembler(encoding, memory=memory)

    received: list[bytes | memoryview] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.one_of(st.integers(1, 9), st.integers(1, 3 * LARGE)))
        target = under_test.target()
        if target is not None and data.draw(st.booleans()):
            step = min(step, len(target), len(stream) - at)
            target[:step] = stream[at : at + step]
            whole = under_test.advance(step)
            received += [whole] if whole is not None else []
        else:
            step = min(step, len(stream) - at)
            received += under_test.feed(memoryview(stream), at, at + step)
        at += step

    assert received == messages
    assert under_test.idle()
    assert memory.held == sum(len(message) for message in messages if len(message) > LARGE)


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_small_messages_are_bytes_and_large_ones_views_that_nobody_writes_to(
    encoding: str | None,
) -> None:
    """The read buffer is used again at once, so both must have memory of their own."""
    data = bytearray(framed(b"abc", encoding) + framed(b"x" * (LARGE + 1), encoding))

    small, large = assembler(encoding).feed(memoryview(data), 0, len(data))
    data[:] = bytes(len(data))

    assert small == b"abc"
    assert type(small) is bytes
    assert type(large) is memoryview
    assert large.readonly
    assert large == b"x" * (LARGE + 1)


def test_a_large_message_is_received_in_place() -> None:
    """From the moment its length is known, and nowhere else."""
    under_test = assembler()
    assert under_test.target() is None
    fed(under_test, prefix(LARGE + 10) + b"ab")

    target = under_test.target()

    assert target is not None
    assert len(target) == under_test.missing == LARGE + 8
    assert under_test.advance(0) is None
    target[:] = b"c" * len(target)
    assert under_test.advance(LARGE) is None
    assert under_test.missing == 8
    whole = under_test.advance(8)
    assert whole is not None
    assert bytes(whole) == b"ab" + b"c" * (LARGE + 8)
    assert under_test.target() is None
    assert under_test.idle()
    assert fed(under_test, framed(b"next")) == [b"next"]


@pytest.mark.parametrize("size", [-1, 11])
def test_no_more_is_received_in_place_than_was_missing(size: int) -> None:
    """A defect of the caller, not of the peer."""
    under_test = assembler()
    fed(under_test, prefix(LARGE + 10) + bytes(LARGE))

    with pytest.raises(ValueError, match="10 were missing"):
        under_test.advance(size)


def test_a_small_or_compressed_message_is_not_received_in_place() -> None:
    """What is cut out or inflated later needs no final memory now."""
    for start in (prefix(10) + b"a", prefix(LARGE + 1, compressed=True) + b"\x1f"):
        under_test = assembler("gzip")
        fed(under_test, start)
        assert under_test.target() is None
        assert under_test.missing


@pytest.mark.parametrize(
    ("why", "encoding", "data", "status", "text"),
    [
        # The first six in grpcio's own words.
        (
            "flag without encoding",
            None,
            framed(b"a", "gzip"),
            13,
            "Compression bit set but no encoding configured",
        ),
        (
            "no gzip",
            "gzip",
            prefix(3, compressed=True) + b"abc",
            13,
            "Decompression failed due to zlib error",
        ),
        (
            "gzip for deflate",
            "deflate",
            framed(b"a", "gzip"),
            13,
            "Decompression failed due to zlib error",
        ),
        (
            "cut off",
            "gzip",
            prefix(15, compressed=True) + gzip.compress(b"a", mtime=0)[:15],
            13,
            "Decompression failed due to data error",
        ),
        (
            "more behind",
            "gzip",
            prefix(23, compressed=True) + gzip.compress(b"a", mtime=0) + b"xx",
            13,
            "Decompression failed due to not all input consumed",
        ),
        (
            "too large",
            None,
            prefix(LIMIT + 1),
            8,
            f"SERVER: Received message larger than max ({LIMIT + 1} vs. {LIMIT})",
        ),
        (
            "a bomb",
            "gzip",
            framed(bytes(LIMIT + 1), "gzip"),
            8,
            f"Decompressed message larger than max ({LIMIT})",
        ),
        (
            "flag 2",
            "gzip",
            b"\x02\0\0\0\1a",
            13,
            "compressed flag of a message is 2, expected 0 or 1",
        ),
        (
            "an encoding that we lack",
            "br",
            b"\x01\0\0\0\1a",
            13,
            "grpc-encoding 'br' is not known",
        ),
    ],
)
def test_a_wrong_message_ends_its_call_with_a_status(
    why: str, encoding: str | None, data: bytes, status: int, text: str
) -> None:
    """What came whole before it is not lost, and no memory stays reserved."""
    memory = Memory()
    error = refused(assembler(encoding, memory=memory), framed(b"before") + data)

    assert (error.status, error.text) == (status, text), why
    assert error.messages == [b"before"]
    assert error.name
    assert memory.held == 0


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    """As it is sent and as it is inflated."""
    message = bytes(LIMIT)

    assert fed(assembler(), framed(message)) == [message]
    assert fed(assembler("gzip"), framed(message, "gzip")) == [message]


def test_nothing_stands_for_the_empty_message_when_compressed() -> None:
    """As in grpcio."""
    assert fed(assembler("gzip"), prefix(0, compressed=True)) == [b""]
    assert fed(assembler("gzip"), framed(b"", "gzip")) == [b""]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (prefix(10) + b"abc", "stream ended after 3 bytes of a message of 10 bytes"),
        (prefix(10), "stream ended after 0 bytes of a message of 10 bytes"),
        (b"\0\0", "stream ended after 2 bytes of a length prefix of 5 bytes"),
        (prefix(LARGE + 1) + b"a", f"stream ended after 1 bytes of a message of {LARGE + 1} bytes"),
    ],
)
def test_a_stream_must_not_end_inside_a_message(data: bytes, text: str) -> None:
    """grpcio waits for ever there."""
    under_test = assembler()
    assert fed(under_test, data) == []

    with pytest.raises(MessageError, match=text) as caught:
        under_test.end()

    assert caught.value.status == 13
    assert not under_test.idle()


def test_a_stream_may_end_between_messages() -> None:
    """Before the first one, too."""
    under_test = assembler()
    under_test.end()

    fed(under_test, framed(b"abc"))

    under_test.end()


def test_no_memory_is_taken_that_was_refused() -> None:
    """One large message, and one that becomes large."""
    memory = Memory(room=LARGE)

    plain = refused(assembler(memory=memory), prefix(2 * LARGE))
    packed = refused(assembler("gzip", memory=memory), framed(bytes(LIMIT), "gzip"))

    for error in (plain, packed):
        assert error.status == 8
        assert error.name == "memory_refused"
    assert memory.asked[0] == 2 * LARGE
    assert memory.held == 0


def test_memory_is_given_back_when_a_stream_is_dropped() -> None:
    """In the middle of a large message, plain or compressed."""
    for encoding in (None, "gzip"):
        memory = Memory()
        under_test = assembler(encoding, memory=memory)
        data = framed(random.Random(1).randbytes(4 * LARGE), encoding)
        fed(under_test, data[:-5])
        assert memory.held > 0

        under_test.discard()

        assert memory.held == 0
        assert under_test.idle()


def test_a_bomb_takes_no_more_than_the_limit() -> None:
    """Ten times the limit in a few kilobytes: reserved and held step by step."""
    memory = Memory()

    refused(assembler("gzip", memory=memory), framed(bytes(10 * LIMIT), "gzip"))

    assert memory.most <= LIMIT


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=6), encodings)
def test_any_bytes_are_messages_or_raise_the_one_error(
    chunks: list[bytes], encoding: str | None
) -> None:
    """Never another exception, never memory that is kept."""
    memory = Memory()
    under_test = assembler(encoding, limit=1000, memory=memory)
    try:
        for chunk in chunks:
            fed(under_test, chunk)
        under_test.end()
    except MessageError:
        under_test.discard()
    assert memory.held == 0


@given(st.binary(max_size=60))
def test_damaged_compressed_messages_raise_the_one_error(noise: bytes) -> None:
    """Bytes overwritten anywhere."""
    packed = bytearray(gzip.compress(b"some text to be compressed" * 4, mtime=0))
    packed[3 : 3 + len(noise)] = noise

    inflater = Inflater("gzip", 1000, lambda size: True, lambda size: None, lambda size: None)
    try:
        inflater.feed(bytes(packed))
        inflater.finish()
    except MessageError:
        inflater.discard()


@given(st.binary(max_size=400), st.integers(1, 50), encodings, st.sampled_from(sorted(LEVELS)))
def test_compression_round_trip_changes_nothing_and_never_grows(
    piece: bytes, times: int, encoding: str | None, level: str
) -> None:
    """What does not become shorter is sent as it is."""
    message = piece * times
    if encoding is None:
        return

    packed = compress(message, encoding, LEVELS[level])

    if packed is None:
        assert level == "none" or len(message) < SMALLEST or len(set(message)) > 1
        return
    assert len(packed) < len(message)
    assert fed(assembler(encoding), prefix(len(packed), compressed=True) + packed) == [message]
