"""An access line is one line, says what happened, and cannot be forged by a caller."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.observability.access_log import (
    TEXT_LIMIT,
    AccessEntry,
    AccessLog,
    human_line,
    json_line,
    peer_host,
)
from penstock_runtime.observability.log_text import one_line, timestamp

ENTRY = AccessEntry(
    wall_ns=1_767_225_600_123_456_789,
    rpc="ModelInfer",
    status="OK",
    model="add_sub",
    version="1",
    id="r-7",
    peer="10.0.0.1",
    request_bytes=120,
    response_bytes=80,
    batch_size=8,
    queue_ns=40_000,
    compute_ns=300_000,
    total_ns=512_999,
)


def test_the_json_line_has_every_member() -> None:
    """Whoever reads the log by machine finds the same members in each line."""
    assert json.loads(json_line(ENTRY)) == {
        "time": "2026-01-01T00:00:00.123456Z",
        "level": "INFO",
        "event": "access",
        "rpc": "ModelInfer",
        "status": "OK",
        "model": "add_sub",
        "version": "1",
        "id": "r-7",
        "trace_id": "",
        "peer": "10.0.0.1",
        "request_bytes": 120,
        "response_bytes": 80,
        "responses": 1,
        "batch_size": 8,
        "queue_us": 40,
        "compute_us": 300,
        "total_us": 512,
    }


def test_the_human_line_says_only_what_there_is_to_say() -> None:
    """What was not executed has no queue and no compute time."""
    assert human_line(ENTRY) == (
        "2026-01-01T00:00:00.123456Z INFO access ModelInfer OK model=add_sub version=1 id=r-7"
        " in=120B out=80B batch=8 queue=40us compute=300us total=512us peer=10.0.0.1"
    )
    assert human_line(AccessEntry(0, "ServerLive", "OK", total_ns=9000)) == (
        "1970-01-01T00:00:00.000000Z INFO access ServerLive OK in=0B out=0B total=9us"
    )


@given(st.text())
def test_nothing_that_a_caller_says_makes_a_second_line(text: str) -> None:
    """Line ends, escape sequences and direction marks in ids and names are written out."""
    entry = ENTRY._replace(id=text, model=text, peer=text, trace_id=text)

    for line in (human_line(entry), json_line(entry)):
        assert line.isprintable()
        assert line.splitlines() == [line]
    assert json.loads(json_line(entry))["id"] == text


def test_a_callers_blanks_do_not_forge_pairs() -> None:
    """A value with a blank or an equals sign is quoted."""
    line = human_line(ENTRY._replace(id='x" status=OK'))

    assert r'id="x\" status=OK"' in line


@given(st.text())
def test_text_without_control_characters_is_left_as_it_is(text: str) -> None:
    """Escaping touches only what could do harm, and leaves nothing that could."""
    safe = one_line(text)

    assert safe.isprintable()
    assert safe == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egnp", r"\u202egnp"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_escapes_are_those_of_python(text: str, safe: str) -> None:
    """A reader can tell which character was meant."""
    assert one_line(text) == safe


def test_a_long_id_is_cut_before_it_waits_in_a_buffer() -> None:
    """An id of a megabyte costs the log a hundred bytes and its length."""
    kept: list[AccessEntry] = []
    log = AccessLog(kept.append)

    log.record(ENTRY._replace(id="x" * 1_000_000))
    log.record(ENTRY)

    assert kept[0].id == "x" * TEXT_LIMIT + "...(1000000 characters)"
    assert kept[1] is ENTRY


def test_a_log_without_a_sink_is_off() -> None:
    """Off means: nothing is wanted, and what is recorded all the same goes nowhere."""
    log = AccessLog()

    log.record(ENTRY)

    assert not log.enabled
    assert not log.wants(ok=False)


def test_failures_are_logged_however_rarely_successes_are() -> None:
    """Sampling is for what went well."""
    log = AccessLog(print, every=10)

    wanted = [log.wants(ok=True) for _ in range(30)]

    assert [index for index, yes in enumerate(wanted) if yes] == [0, 10, 20]
    assert all(log.wants(ok=False) for _ in range(5))


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:[::1]:5000", "::1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("unix:/run/socket", "unix"),
        ("unix:", "unix"),
        ("", ""),
        ("vsock:3:7", "vsock:3:7"),
    ],
)
def test_a_peer_is_told_without_its_port(peer: str, host: str) -> None:
    """The host says who; the port would only make every line different."""
    assert peer_host(peer) == host


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_times_sort_as_their_text_does(wall_ns: int) -> None:
    """Timestamps have one width and the order of time."""
    text = timestamp(wall_ns)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert text <= timestamp(wall_ns + 1000)
