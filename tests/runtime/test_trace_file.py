"""Traces as Triton's JSON, read back from the files, and the thread that writes them."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.runtime.traces import Collected

from penstock_runtime.datatype import DataType
from penstock_runtime.observability.trace_file import MOST_GROUPS, JsonArrayFile, TraceFile
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_tensors import BACKEND_OUTPUT, QUEUE_INPUT
from penstock_runtime.observability.trace_writer import TraceWriter
from penstock_runtime.observability.tracing import Execution, Trace
from penstock_runtime.tensor import Tensor


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_trace_is_one_object_with_all_its_timestamps(tmp_path: Path) -> None:
    """Names and order are Triton's; ids of parent and request only where there are any."""
    collected = Collected()
    trace = collected.begin("m", 10, request_id="r7", model_version="3")
    trace.mark("QUEUE_START", 12)
    trace.executed(Execution("m_0_0", 4, 2, 15, 16, 20, 21))
    trace.responded(22)
    child = trace.child("inner", 13)
    trace.finish(23)
    child.finish(24)
    sink = TraceFile(tmp_path / "trace.json")

    sink.write(collected.traces)
    sink.close()

    names = (
        "REQUEST_START",
        "QUEUE_START",
        "COMPUTE_START",
        "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START",
        "COMPUTE_END",
        "INFER_RESPONSE_COMPLETE",
        "REQUEST_END",
    )
    times = (10, 12, 15, 16, 20, 21, 22, 23)
    assert read(tmp_path / "trace.json") == [
        {
            "id": 1,
            "model_name": "m",
            "model_version": 3,
            "request_id": "r7",
            "timestamps": [{"name": n, "ns": t} for n, t in zip(names, times, strict=True)],
        },
        {
            "id": 2,
            "model_name": "inner",
            "model_version": -1,
            "parent_id": 1,
            "timestamps": [{"name": "REQUEST_START", "ns": 13}, {"name": "REQUEST_END", "ns": 24}],
        },
    ]


def test_tensors_stand_behind_their_trace(tmp_path: Path) -> None:
    """With level TENSORS alone there are no timestamps."""
    collected = Collected(Level.TENSORS)
    trace = collected.begin()
    array = np.array([[1, 2]], np.int64)
    trace.tensors(QUEUE_INPUT, (Tensor("IN", DataType.INT64, (1, 2), array),))
    trace.tensors(BACKEND_OUTPUT, (Tensor("OUT", DataType.INT64, (1, 2), array * 2),))
    trace.finish(5)
    sink = TraceFile(tmp_path / "t")

    sink.write([trace])
    sink.close()

    head, first, second = read(tmp_path / "t")
    assert head == {"id": 1, "model_name": "m", "model_version": -1}
    assert first == {
        "id": 1,
        "activity": "TENSOR_QUEUE_INPUT",
        "tensor": {"name": "IN", "data": "1,2", "shape": "1,2", "dtype": "INT64"},
    }
    assert second["activity"] == "TENSOR_BACKEND_OUTPUT"
    assert second["tensor"]["data"] == "2,4"


@given(st.lists(st.lists(st.text(), max_size=3), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_file_is_an_array_after_every_write(tmp_path: Path, batches: list[list[str]]) -> None:
    """Whatever models and ids are called; a reader need not wait for the end."""
    collected = Collected()
    file = JsonArrayFile(tmp_path / "t")
    written: list[str] = []

    for batch in filter(None, batches):
        file.append([collected.ended("m", request_id=name) for name in batch])
        written += batch
        found = read(tmp_path / "t")

        assert [said.get("request_id", "") for said in found] == written
    file.close()


def test_a_write_that_failed_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    """The disk was full, and then it was not."""
    collected = Collected()
    file = JsonArrayFile(tmp_path / "t")
    file.append([collected.ended()])
    raw = file._file

    class Full:
        """Takes a long text, and then no more."""

        def __getattr__(self, name: str) -> Any:
            return getattr(raw, name)

        def write(self, data: memoryview) -> int:
            raw.write(data)
            raise OSError(28, "No space left on device")

    file._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        file.append([collected.ended("long" * 100)])
    file._file = raw

    file.append([collected.ended("n")])
    file.close()

    assert [said["model_name"] for said in read(tmp_path / "t")] == ["m", "n"]


def test_a_log_frequency_makes_a_file_of_every_so_many(tmp_path: Path) -> None:
    """PATH.0, PATH.1 and so on; the last has what is left, and PATH itself is not there."""
    collected = Collected(log_frequency=2)
    sink = TraceFile(tmp_path / "t")

    sink.write([collected.ended() for _ in range(3)])
    sink.write([collected.ended() for _ in range(2)])
    sink.close()

    ids = [[said["id"] for said in read(tmp_path / f"t.{n}")] for n in range(3)]
    assert ids == [[1, 2], [3, 4], [5]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.0", "t.1", "t.2"]


def test_new_settings_begin_a_new_file(tmp_path: Path) -> None:
    """Traces of two groups are counted apart, and a flush ends the files of all."""
    one, two = Collected(log_frequency=10), Collected(log_frequency=10)
    sink = TraceFile(tmp_path / "t")

    sink.write([one.ended(), two.ended("n")])
    sink.flush()
    sink.write([one.ended()])
    sink.close()

    found = [[said["model_name"] for said in read(tmp_path / f"t.{n}")] for n in range(3)]
    assert found == [["m"], ["n"], ["m"]]


def test_files_that_are_open_have_a_bound(tmp_path: Path) -> None:
    """However many groups there are."""
    sink = TraceFile(tmp_path / "t")

    for _ in range(MOST_GROUPS + 1):
        sink.write([Collected(log_frequency=5).ended()])

    assert repr(sink) == f"TraceFile(1 parts open, {MOST_GROUPS + 1} begun)"
    sink.close()


# -- the writer ----------------------------------------------------------------------------------


class Kept:
    """A sink that keeps what it gets, waits for `gate` and fails if told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.traces: list[Trace] = []
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error = error
        self.flushes = 0
        self.closed = False
        self.abandoned = False

    def write(self, traces: Sequence[Trace]) -> None:
        self.entered.set()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.traces += traces
        self.sizes.append(len(traces))

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.abandoned = True


def test_every_trace_is_handed_over_once_and_in_order() -> None:
    """Those that wait when it ends too, no more than a batch at once."""
    sink, collected = Kept(), Collected()
    writer = TraceWriter(sink, batch=4, linger_s=30.0)
    traces = [collected.ended() for _ in range(11)]

    taken = [writer.put(trace) for trace in traces]

    assert writer.close(30)
    assert all(taken)
    assert sink.traces == traces
    assert max(sink.sizes) <= 4
    assert sink.closed
    assert (writer.written, writer.dropped) == (11, 0)
    assert not writer.put(traces[0])
    assert writer.dropped == 1


def test_a_flush_waits_for_what_was_put_before() -> None:
    """However long the writer would have waited for more."""
    sink, collected = Kept(), Collected()
    writer = TraceWriter(sink, linger_s=30.0)
    writer.put(collected.ended())

    assert writer.flush(30)

    assert (len(sink.traces), sink.flushes) == (1, 1)
    assert writer.close(30)


def test_what_has_no_room_is_dropped_and_counted() -> None:
    """A sink that hangs holds nobody up, and keeps no more than the bound."""
    sink, collected = Kept(), Collected()
    sink.gate.clear()
    writer = TraceWriter(sink, most=3, linger_s=0.0)
    writer.put(collected.ended())
    assert sink.entered.wait(30)

    taken = [writer.put(collected.ended()) for _ in range(5)]

    assert taken == [True] * 3 + [False] * 2
    assert not writer.flush(0.0)
    assert not writer.close(0.0)
    assert sink.abandoned
    sink.gate.set()
    assert writer.close(30)
    assert (writer.written, writer.dropped) == (4, 2)


def test_bytes_have_a_bound_too() -> None:
    """A few traces with large tensors fill the buffer as many small ones do."""
    sink, collected = Kept(), Collected(Level.TENSORS)
    sink.gate.clear()
    writer = TraceWriter(sink, most_bytes=250_000, linger_s=0.0)
    writer.put(collected.ended())
    assert sink.entered.wait(30)
    large = [collected.begin() for _ in range(4)]
    for trace in large:
        trace.tensors(QUEUE_INPUT, (Tensor("X", DataType.UINT8, (100_000,), bytes(100_000)),))

    taken = [writer.put(trace) for trace in large]

    assert taken == [True, True, False, False]
    sink.gate.set()
    assert writer.close(30)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_sink_that_fails_costs_traces_and_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted, one line a minute says why, and what comes later is written."""
    sink, collected = Kept(error), Collected()
    writer = TraceWriter(sink, batch=1, linger_s=0.0)
    for _ in range(3):
        writer.put(collected.ended())
        assert writer.flush(30)
    sink.error = None
    writer.put(collected.ended())

    assert writer.close(30)

    assert (writer.written, writer.dropped) == (1, 3)
    (line,) = caplog.messages
    assert line.startswith("1 traces are lost: ")
