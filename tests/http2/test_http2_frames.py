"""Frames and settings as bytes: built as `hyperframe` reads them, refused as RFC 9113 demands."""

from typing import Any

import hyperframe.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PING,
    SETTINGS_ACK,
    ErrorCode,
    frame,
    goaway,
    header_frames,
    ping,
    rst_stream,
    window_update,
    without_padding,
)
from penstock.transport.http2.settings import (
    ENABLE_PUSH,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE_ID,
    MAX_HEADER_LIST_SIZE,
    Settings,
    settings_frame,
)

ids = st.integers(1, 2**31 - 1)
words = st.integers(0, 2**32 - 1)


def read(text: bytes) -> Any:
    """The one frame in these bytes, as the oracle sees it."""
    found, length = hyperframe.frame.Frame.parse_frame_header(memoryview(text[:9]))
    assert length == len(text) - 9
    found.parse_body(memoryview(text[9:]))
    return found


@given(ids, words)
def test_a_reset_carries_its_stream_and_its_code(stream_id: int, code: int) -> None:
    """RST_STREAM is built as another library reads it."""
    found = read(rst_stream(stream_id, code))

    assert (found.stream_id, found.error_code) == (stream_id, code)


@given(st.integers(0, 2**31 - 1), st.integers(1, MAX_WINDOW))
def test_a_window_update_carries_its_increment(stream_id: int, increment: int) -> None:
    """WINDOW_UPDATE is built as another library reads it."""
    found = read(window_update(stream_id, increment))

    assert (found.stream_id, found.window_increment) == (stream_id, increment)


@given(st.integers(0, 2**31 - 1), words, st.binary(max_size=64))
def test_a_goaway_carries_the_last_stream_the_code_and_a_text(
    last: int, code: int, debug: bytes
) -> None:
    """GOAWAY is built as another library reads it."""
    found = read(goaway(last, code, debug))

    assert (found.last_stream_id, found.error_code, found.additional_data) == (last, code, debug)


@given(st.binary(min_size=8, max_size=8), st.booleans())
def test_a_ping_comes_back_with_the_same_bytes(payload: bytes, ack: bool) -> None:
    """PING and its answer differ in nothing but the flag."""
    found = read(ping(payload, ack=ack))

    assert found.opaque_data == payload
    assert ("ACK" in found.flags) == ack


def test_settings_are_read_as_they_were_written() -> None:
    """Every entry of a SETTINGS frame is there, and the acknowledgement is empty."""
    entries = {HEADER_TABLE_SIZE: 0, INITIAL_WINDOW_SIZE: MAX_WINDOW, 0xABCD: 7}

    found = read(settings_frame(entries))

    assert found.settings == entries
    assert "ACK" in read(SETTINGS_ACK).flags


@given(st.binary(max_size=100), st.integers(1, 40))
def test_a_header_block_that_is_too_long_goes_on_in_continuations(
    header_block: bytes, largest: int
) -> None:
    """No frame exceeds the peer's limit, the pieces are the block, the last one says so."""
    text = header_frames(5, header_block, END_STREAM, largest)

    frames = []
    while text:
        found, length = hyperframe.frame.Frame.parse_frame_header(memoryview(text[:9]))
        frames.append((found, text[9 : 9 + length]))
        text = text[9 + length :]
    assert b"".join(payload for _, payload in frames) == header_block
    assert all(len(payload) <= largest for _, payload in frames)
    assert [found.type for found, _ in frames[1:]] == [CONTINUATION] * (len(frames) - 1)
    first, last = frames[0][0], frames[-1][0]
    first.parse_flags(text_flags(frames, header_block, largest, 0))
    last.parse_flags(text_flags(frames, header_block, largest, len(frames) - 1))
    assert "END_STREAM" in first.flags
    assert "END_HEADERS" in last.flags


def text_flags(frames: list[Any], header_block: bytes, largest: int, index: int) -> int:
    """The flags octet of one of the frames, cut from the bytes once more."""
    text = header_frames(5, header_block, END_STREAM, largest)
    for _, payload in frames[:index]:
        text = text[9 + len(payload) :]
    return text[4]


@given(st.binary(max_size=50), st.integers(0, 255))
def test_padding_is_cut_off_and_nothing_else(content: bytes, padding: int) -> None:
    """What was padded is found again wherever the payload lies."""
    payload = bytes([padding]) + content + bytes(padding)

    start, end = without_padding(b"ab" + payload + b"c", 2, 2 + len(payload))

    assert (b"ab" + payload)[start:end] == content


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", ErrorCode.FRAME_SIZE_ERROR),
        (b"\x01", ErrorCode.PROTOCOL_ERROR),
        (b"\x05abc", ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_padding_beyond_the_payload_is_refused(payload: bytes, code: int) -> None:
    """A pad length that leaves no room for itself is an error of the connection."""
    with pytest.raises(ConnectionFault) as fault:
        without_padding(payload, 0, len(payload))

    assert fault.value.code == code


def payload_of(entries: dict[int, int]) -> bytes:
    """What a SETTINGS frame with these entries carries."""
    return settings_frame(entries)[9:]


def test_settings_take_over_what_is_known_and_ignore_the_rest() -> None:
    """Each known setting arrives under its name; unknown ones and missing ones change nothing."""
    settings = Settings()

    settings.apply(
        payload_of({MAX_CONCURRENT_STREAMS: 7, MAX_HEADER_LIST_SIZE: 9, 0x99: 1, ENABLE_PUSH: 0})
    )

    assert settings.max_concurrent_streams == 7
    assert settings.max_header_list_size == 9
    assert settings.enable_push == 0
    assert settings.initial_window_size == 65_535
    assert "max_frame_size=16384" in repr(settings)


@pytest.mark.parametrize(
    ("identifier", "value", "code"),
    [
        (ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (MAX_FRAME_SIZE_ID, 16_383, ErrorCode.PROTOCOL_ERROR),
        (MAX_FRAME_SIZE_ID, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_setting_out_of_its_range_is_refused_with_its_code(
    identifier: int, value: int, code: int
) -> None:
    """RFC 9113, 6.5.2 names the code; the text names the value and what was expected."""
    with pytest.raises(ConnectionFault, match=f"is {value}, expected") as fault:
        Settings().apply(payload_of({identifier: value}))

    assert fault.value.code == code


def test_settings_of_an_odd_length_are_refused() -> None:
    """Entries have six bytes each."""
    with pytest.raises(ConnectionFault, match="7 bytes") as fault:
        Settings().apply(bytes(7))

    assert fault.value.code == ErrorCode.FRAME_SIZE_ERROR
    assert "7 bytes" in repr(fault.value)


def test_the_number_of_every_frame_and_flag_is_that_of_the_standard() -> None:
    """Types and flags agree with the other library's."""
    assert read(frame(DATA, END_STREAM, 1, b"x")).flags == {"END_STREAM"}
    assert read(frame(DATA, PADDED, 1, b"\x01x\x00")).data == b"x"
    assert hyperframe.frame.PingFrame.type == PING
    assert END_HEADERS == 0x4
