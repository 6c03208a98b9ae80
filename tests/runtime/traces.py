"""Traces for tests: collected where they end, with times that are chosen."""

from itertools import count
from typing import Any

from penstock_runtime.observability.span_context import SpanContext, new_root
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.tracing import Origin, Trace

WALL = 1_700_000_000_000_000_000


class Collected:
    """Where traces go, in the order of their ends."""

    def __init__(
        self, level: Level = Level.TIMESTAMPS, *, spans: bool = False, log_frequency: int = 0
    ) -> None:
        self.traces: list[Trace] = []
        self._numbers = count(1)
        self.origin = Origin(
            self.traces.append, self._numbers.__next__, level, spans, object(), log_frequency
        )

    def begin(
        self, model: str = "m", start: int = 0, parent: SpanContext | None = None, **more: Any
    ) -> Trace:
        """A trace that has begun."""
        context = None
        if self.origin.spans:
            context = parent.child() if parent is not None else new_root()
        return Trace(
            self.origin,
            self.origin.number(),
            model,
            start,
            WALL + start,
            context=context,
            parent=parent,
            **more,
        )

    def ended(self, *args: Any, **more: Any) -> Trace:
        """A trace that is over."""
        trace = self.begin(*args, **more)
        trace.finish(trace.start_ns + 100)
        return trace
