"""Traces as Triton's JSON: a file that is an array at any time, or, with a log frequency, a file
for every so many of them.

Each trace is an object with its id, its model and its timestamps; each of its tensors one more.
"""

import json
from collections.abc import Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_tensors import TracedTensor, text_of
from penstock_runtime.observability.tracing import Trace

MOST_GROUPS = 64

_encode = json.JSONEncoder(separators=(",", ":")).encode
_END = b"\n]\n"


def objects(trace: Trace) -> Iterator[dict[str, Any]]:
    """What the file says of a trace."""
    version = trace.model_version
    said: dict[str, Any] = {
        "id": trace.id,
        "model_name": trace.model_name,
        "model_version": int(version) if version.isdecimal() else -1,
    }
    if trace.request_id:
        said["request_id"] = trace.request_id
    if trace.parent_id:
        said["parent_id"] = trace.parent_id
    if Level.TIMESTAMPS in trace.origin.level:
        said["timestamps"] = [{"name": name, "ns": ns} for name, ns in trace.timestamps()]
    yield said
    for tensor in trace.bag.tensors:
        yield {"id": trace.id, "activity": tensor.activity, "tensor": _tensor(tensor)}


def _tensor(tensor: TracedTensor) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": tensor.name,
        "data": text_of(tensor),
        "shape": ",".join(map(str, tensor.shape)),
        "dtype": tensor.datatype.value,
    }
    if tensor.cut:
        said["cut"] = True
    return said


class JsonArrayFile:
    """A file that holds one JSON array, whole after every `append`. Begins anew when opened."""

    def __init__(self, path: Path) -> None:
        # Without a buffer, which would try again later what could not be written.
        self._file: RawIOBase = path.open("wb", buffering=0)
        self._end = 0
        self.traces = 0

    def append(self, traces: Sequence[Trace]) -> None:
        """Add what there is to say of these."""
        lines = [_encode(said) for trace in traces for said in objects(trace)]
        head = ",\n" if self._end else "[\n"
        data = (head + ",\n".join(lines)).encode(errors="backslashreplace")
        # In one piece: a reader never sees an array without an end for long.
        self._file.seek(self._end)
        rest = memoryview(data + _END)
        while rest:
            rest = rest[self._file.write(rest) :]
        # What is left of a write that failed half-way may be longer.
        self._file.truncate()
        self._end += len(data)
        self.traces += len(traces)

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()


class TraceFile:
    """The sink of mode `triton`: PATH, or PATH.0, PATH.1 and so on for groups of traces whose log
    frequency is not 0.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole: JsonArrayFile | None = None
        self._parts: dict[object, JsonArrayFile] = {}
        self._next = 0

    def write(self, traces: Sequence[Trace]) -> None:
        """Append them, each to its file."""
        whole = [trace for trace in traces if not trace.origin.log_frequency]
        if whole:
            self._whole = self._whole or JsonArrayFile(self._path)
            self._whole.append(whole)
        for trace in traces:
            if trace.origin.log_frequency:
                self._write_part(trace)

    def _write_part(self, trace: Trace) -> None:
        group = trace.origin.group
        part = self._parts.get(group)
        if part is None:
            if len(self._parts) >= MOST_GROUPS:
                self.flush()
            part = self._parts[group] = JsonArrayFile(
                self._path.with_name(f"{self._path.name}.{self._next}")
            )
            self._next += 1
        part.append((trace,))
        if part.traces >= trace.origin.log_frequency:
            self._parts.pop(group).close()

    def flush(self) -> None:
        """What comes next goes into new files where traces are counted."""
        while self._parts:
            _, part = self._parts.popitem()
            part.close()

    def abandon(self) -> None:
        """A write that hangs is for the system to end."""

    def close(self) -> None:
        """Give the descriptors back."""
        self.flush()
        if self._whole is not None:
            self._whole.close()

    def __repr__(self) -> str:
        return f"TraceFile({len(self._parts)} parts open, {self._next} begun)"
