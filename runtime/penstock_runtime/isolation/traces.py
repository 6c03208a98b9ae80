"""The trace of a request whose model is in another process: its context goes along, and what is
noted there comes back with the answers.

The clock is the machine's, so that times need no translation.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.isolation.values import count_of, list_of, text_of
from penstock_runtime.observability.span_context import caller_context
from penstock_runtime.observability.tracing import Origin, Trace

RECEIVED, ANSWERED = "PROCESS_RECEIVED", "PROCESS_ANSWERED"
"""When the process had a request in hand, and when it gave its answer."""
_NAMES = (RECEIVED, ANSWERED)
_SILENT = Origin(tell=lambda _trace: None, number=int)


def trace_note(trace: Trace | None) -> Mapping[str, Any]:
    """What the process is told of a request's trace, as a part of its note."""
    return {} if trace is None else {"traced": trace.carrier or ""}


def remote_trace(note: Mapping[str, Any], number: int, model: str) -> Trace | None:
    """The trace of a request in the process; its children know it by its number."""
    carrier = note.get("traced")
    if carrier is None:
        return None
    headers: Mapping[str, str] = json.loads(carrier) if carrier else {}
    now = time.monotonic_ns()
    trace = Trace(_SILENT, number, model, now, time.time_ns(), context=caller_context(headers))
    trace.mark(RECEIVED, now)
    return trace


def marks_note(traces: Iterable[Trace | None]) -> Mapping[str, Any]:
    """What was noted in the process of requests that are answered now, as a part of a note."""
    traced = [trace for trace in traces if trace is not None]
    if not traced:
        return {}
    received = [ns for name, ns in traced[0].marks if name == RECEIVED]
    return {"marks": [[RECEIVED, *received[:1]], [ANSWERED, time.monotonic_ns()]]}


def note_marks(trace: Trace | None, note: Mapping[str, Any]) -> None:
    """Note in the server what the process has noted; BrokenProtocol if that is nothing."""
    told = note.get("marks")
    if told is None:
        return
    for item in list_of(told, len(_NAMES)):
        pair = list_of(item, 2)
        if len(pair) != 2 or text_of(pair[0], 32) not in _NAMES:
            raise BrokenProtocol("a mark of a trace is none")
        at_ns = count_of(pair[1])
        if trace is not None:
            trace.mark(pair[0], at_ns)
