"""Logs are one line per event, and whoever logs never waits for whoever reads."""

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.log_writer import LogWriter, to_descriptor
from penstock.logs import LogFormat, Logs, configure
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.access_log import AccessEntry, human_line
from penstock_runtime.observability.metrics import render

Start = Callable[..., Logs]
ENTRY = AccessEntry(0, "ModelInfer", "OK", model="m", id="r-1")


class Lines:
    """A place to write to that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def all(self) -> list[str]:
        return self.data.decode().splitlines()


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure logging for one test."""
    started: list[Logs] = []

    def begin(log_format: LogFormat = "human", level: str = "info", **options: object) -> Logs:
        started.append(configure(log_format, level, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for logs in started:
        logs.close()


def test_a_json_record_has_its_message_its_extras_and_its_exception(start: Start) -> None:
    """Everything of one event is one JSON object on one line."""
    lines = Lines()
    logs = start("json", write=lines.write)

    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("penstock.x").exception(
            "load of %s failed", "m", extra={"version": 3, "ratio": float("nan")}
        )
    logs.close()

    [line] = lines.all()
    said = json.loads(line)
    assert said["message"] == "load of m failed"
    assert (said["level"], said["logger"], said["version"], said["ratio"]) == (
        "ERROR",
        "penstock.x",
        3,
        "nan",
    )
    assert said["exception"].endswith("ValueError: two\nlines")


def test_a_human_record_is_one_line_with_its_traceback(start: Start) -> None:
    """A traceback is part of its event's line."""
    lines = Lines()
    logs = start(write=lines.write)

    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("penstock.x").exception("failed", extra={"model": "m"})
    logs.close()

    [line] = lines.all()
    assert " ERROR penstock.x: failed model=m | Traceback (most recent call last):\\n" in line
    assert line.endswith("ValueError: bad")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text())
def test_no_message_makes_two_lines_or_moves_a_cursor(start: Start, text: str) -> None:
    """Names with line ends or escape sequences cannot forge an event."""
    for log_format in ("human", "json"):
        lines = Lines()
        logs = start(log_format, write=lines.write)

        logging.getLogger("penstock").info("%s", text, extra={"name_": text})
        logs.access.record(ENTRY._replace(id=text))
        logs.close()

        read = lines.data.decode().removesuffix("\n").split("\n")
        assert len(read) == 2
        assert all(line.isprintable() for line in read)


def test_access_lines_stand_between_the_others_in_order(start: Start) -> None:
    """One writer, one order."""
    lines = Lines()
    logs = start("json", write=lines.write)

    logging.getLogger("penstock").info("first")
    logs.access.record(ENTRY)
    logging.getLogger("penstock").info("last")
    logs.close()

    events = [json.loads(line) for line in lines.all()]
    assert [event.get("message", event.get("event")) for event in events] == [
        "first",
        "access",
        "last",
    ]


def test_the_level_is_that_of_our_own_loggers(start: Start) -> None:
    """Debugging penstock does not bring the debugging of every library."""
    lines = Lines()
    logs = start(level="debug", write=lines.write)

    logging.getLogger("penstock_runtime.x").debug("ours")
    logging.getLogger("somebody.else").debug("theirs")
    logging.getLogger("somebody.else").info("their news")
    logs.close()

    assert [line.partition(": ")[2] for line in lines.all()] == ["ours", "their news"]


def test_warnings_of_python_go_to_the_log(start: Start) -> None:
    """Nothing is left to print on its own."""
    lines = Lines()
    logs = start(write=lines.write)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    logs.close()

    assert any("UserWarning: old" in line for line in lines.all())


def test_a_record_that_cannot_be_formatted_says_where_it_is(start: Start) -> None:
    """A wrong argument costs its own message only."""
    lines = Lines()
    logs = start(write=lines.write)

    fields = {"msg": "%d", "args": ("x",), "pathname": "model.py", "lineno": 7}
    logs.handler.handle(logging.makeLogRecord(fields))
    logs.close()

    assert "a log record of model.py:7 cannot be formatted: TypeError" in lines.all()[0]


def test_the_access_log_can_be_switched_off(start: Start) -> None:
    """Off costs an attribute and writes nothing."""
    lines = Lines()
    logs = start(write=lines.write, access=False)

    logs.access.record(ENTRY)
    logs.close()

    assert not logs.access.enabled
    assert lines.data == b""


def test_a_file_is_appended_to(start: Start, tmp_path: Path) -> None:
    """A restart keeps what was logged before."""
    path = tmp_path / "log"
    path.write_text("before\n")

    logs = start(file=str(path))
    logging.getLogger("penstock").info("after")
    logs.close()

    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("penstock: after\n")


def test_what_cannot_be_configured_is_refused_by_name(tmp_path: Path) -> None:
    """Format, level and file are named in the error."""
    with pytest.raises(InvalidArgument, match="log format 'xml' is unknown"):
        configure("xml")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="log level 'loud' is unknown"):
        configure(level="loud")
    with pytest.raises(InvalidArgument, match="cannot be opened: No such file"):
        configure(file=str(tmp_path / "none" / "log"))


def test_a_pipe_that_no_one_reads_blocks_no_one_and_every_loss_is_counted() -> None:
    """Lines written, lines told lost: together they are all lines put."""
    reader, writer_fd = os.pipe()
    writer = LogWriter(to_descriptor(writer_fd), human_line, lambda n: f"lost {n}", 300_000)

    for _ in range(4000):
        writer.put_line("x" * 200)
    dropped = writer.dropped
    closed = drain_while(reader, lambda: writer.close(30))
    os.close(writer_fd)
    text = closed + drain(reader)

    lines = text.decode().splitlines()
    written = [line for line in lines if line.startswith("x")]
    told = sum(int(line.split()[1]) for line in lines if line.startswith("lost"))
    assert dropped > 0
    assert all(line == "x" * 200 for line in written)
    assert len(written) + dropped == 4000
    assert told == dropped


def drain_while(reader: int, work: Callable[[], object]) -> bytes:
    """What comes out of the pipe while `work` runs in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    data = b""
    os.set_blocking(reader, False)
    while thread.is_alive():
        thread.join(0.001)
        data += drain(reader)
    return data


def drain(reader: int) -> bytes:
    """What the pipe holds now."""
    data = b""
    os.set_blocking(reader, False)
    while True:
        try:
            piece = os.read(reader, 1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_a_full_disk_costs_lines_and_is_told_when_it_has_room_again() -> None:
    """A write that fails is counted, and the next one that works says how many are missing."""
    lines = Lines()
    full = threading.Event()
    full.set()
    tried = threading.Event()

    def write(data: bytes) -> None:
        tried.set()
        if full.is_set():
            raise OSError(28, "No space left on device")
        lines.write(data)

    writer = LogWriter(write, human_line, lambda n: f"lost {n}")
    writer.put_line("a")
    assert tried.wait(30)
    while writer.dropped == 0:
        tried.wait(0.001)
    full.clear()
    writer.put_line("b")
    writer.close(30)

    assert lines.all() == ["b", "lost 1"]


def test_closing_writes_what_waits_and_takes_everything_back(start: Start) -> None:
    """After close no handler, level or thread is left."""
    before = (logging.getLogger().handlers[:], logging.getLogger("penstock").level)
    lines = Lines()
    logs = start(level="debug", write=lines.write)
    logging.getLogger("penstock").info("waits")

    closed = logs.close()

    assert closed
    assert len(lines.all()) == 1
    assert (logging.getLogger().handlers[:], logging.getLogger("penstock").level) == before


def test_lost_lines_are_a_metric(start: Start) -> None:
    """A dashboard can see that the log has holes."""
    logs = start(write=Lines().write)
    logs.close()

    logs.access.record(ENTRY)

    assert b"\npenstock_log_dropped_lines_total 1\n" in render(logs.families())
