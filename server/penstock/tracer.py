"""Who is traced, by the settings in force: asked with every request while anything is traced at
all, and changed while the server runs.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from penstock.config import ServerOptions
from penstock.status import CODES
from penstock.trace_config import SpanExport, TraceConfig, read_trace_config
from penstock.trace_settings import OPENTELEMETRY, TRITON, Given, TraceSettings, TraceValues
from penstock.transport.base import Call
from penstock.version import __version__
from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.observability.access_log import peer_host
from penstock_runtime.observability.metrics import Family, Sample
from penstock_runtime.observability.span_context import (
    TRACEPARENT,
    UNSAMPLED,
    caller_context,
    new_root,
)
from penstock_runtime.observability.trace_file import TraceFile
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_writer import TraceWriter
from penstock_runtime.observability.tracing import Attribute, Origin, Sampler, Trace
from penstock_runtime.request import InferRequest

FLUSH_S = 5.0
NO_METADATA: Mapping[str, str] = {}
_log = logging.getLogger("penstock.trace")


@dataclass(frozen=True, slots=True)
class Plan:
    """How the requests of some models are traced; `active` if they are at all."""

    values: TraceValues
    sampler: Sampler
    origin: Origin
    active: bool

    def choose(self, calls: Sequence[Call]) -> Sequence[int]:
        """Which of these calls' requests to trace, counted from 0; mostly none."""
        if not self.active or not calls:
            return ()
        if self.origin.spans:
            followed = [i for i, call in enumerate(calls) if TRACEPARENT in call.metadata]
            if followed:
                return self._follow(calls, frozenset(followed))
        return self.sampler.choose(len(calls))

    def _follow(self, calls: Sequence[Call], followed: frozenset[int]) -> Sequence[int]:
        """The same where callers have decided: followed, if what they write is readable."""
        chosen, undecided = [], []
        for index, call in enumerate(calls):
            metadata = call.metadata if index in followed else NO_METADATA
            # Mostly so, and then nothing else matters.
            if metadata.get(TRACEPARENT, "").endswith(UNSAMPLED):
                continue
            caller = caller_context(metadata)
            if caller is None:
                undecided.append(index)
            elif caller.sampled and self.sampler.claim():
                chosen.append(index)
        chosen += [undecided[index] for index in self.sampler.choose(len(undecided))]
        return chosen


class Tracer:
    """The settings, and where traces go under them. Changed from any thread."""

    def __init__(
        self, config: TraceConfig | None = None, writers: Mapping[str, TraceWriter] | None = None
    ) -> None:
        self._config = config if config is not None else TraceConfig()
        self._writers = dict(writers or {})
        self._modes = (TRITON, *(mode for mode in self._writers if mode != TRITON))
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._listeners: list[Callable[[], None]] = []
        self._settings = TraceSettings(self._config.values)
        self._plan = self._make(self._config.values, self._config.values.count)
        self._plans: Mapping[str, Plan] = {}

    # -- with every request ----------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether any request could be traced."""
        return self._plan.active or any(plan.active for plan in self._plans.values())

    def sample(self, model: str, call: Call) -> Plan | None:
        """The plan by which the next request to this model is traced; None: it is not."""
        plan = self._plans.get(model, self._plan)
        return plan if plan.choose((call,)) else None

    def choose(self, model: str, calls: Sequence[Call]) -> Mapping[int, Plan]:
        """The same for the next requests, one of each call, at less cost: those that are traced."""
        plan = self._plans.get(model, self._plan)
        return dict.fromkeys(plan.choose(calls), plan)

    # -- settings --------------------------------------------------------------------------------

    def listen(self, callback: Callable[[], None]) -> None:
        """Call this now, and after every change."""
        self._listeners.append(callback)
        callback()

    def has(self, model: str) -> bool:
        """Whether the model has settings of its own."""
        return model in self._plans

    def texts(self, model: str = "") -> dict[str, tuple[str, ...]]:
        """The settings in force; the count is what is left of it."""
        plan = self._plans.get(model, self._plan)
        texts = plan.values.texts()
        texts["trace_count"] = (str(plan.sampler.left),)
        texts["trace_file"] = (self._config.file,)
        return texts

    def change(self, given: Given, model: str = "") -> None:
        """Change these settings, all or none of them, for one model or ("") for all.

        What was traced until now is written first; so it blocks, for a while at most.
        """
        with self._lock:
            settings = self._settings.changed(given, model, self._modes)
            renewed = "trace_count" in given
            plan = self._renew("", settings, renewed and not model)
            plans = {
                name: self._renew(
                    name,
                    settings,
                    renewed and (name == model or (not model and "count" not in said)),
                )
                for name, said in settings.models.items()
            }
            self._settings, self._plan, self._plans = settings, plan, plans
            for callback in self._listeners:
                callback()
        # A collector is not waited for: spans say themselves what they are.
        writer = self._writers.get(TRITON)
        if writer is not None and not writer.flush(FLUSH_S):
            _log.warning("traces could not be written within %g s", FLUSH_S)

    def _renew(self, model: str, settings: TraceSettings, renewed: bool) -> Plan:
        """The plan under new settings; the old one where they say nothing new of it."""
        values = settings.in_force(model)
        old = self._plans.get(model, self._plan)
        own = not model or model in self._plans
        if own and values == old.values and not renewed:
            return old
        same = values.count == old.values.count and not renewed
        return self._make(values, old.sampler.left if same else values.count)

    def _make(self, values: TraceValues, left: int) -> Plan:
        writer = self._writers.get(values.mode)
        wanted = values.level is not Level.OFF
        if wanted and writer is None:
            _log.warning("nothing is traced in mode %s: it has no --trace-config", values.mode)
        sampler = Sampler(values.rate, left)
        origin = Origin(
            writer.put if writer is not None else _nobody,
            self._numbers.__next__,
            values.level,
            values.mode == OPENTELEMETRY,
            sampler,
            values.log_frequency,
        )
        return Plan(values, sampler, origin, wanted and writer is not None)

    # -- around it -------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """How many traces were written, and how many were lost."""
        written = {mode: writer.written for mode, writer in self._writers.items()}
        dropped = {mode: writer.dropped for mode, writer in self._writers.items()}
        return [
            _family("penstock_traces_written_total", "Traces written or exported", written),
            _family(
                "penstock_traces_dropped_total",
                "Traces lost because they could not be written in time, or at all",
                dropped,
            ),
        ]

    def close(self, timeout_s: float) -> None:
        """Write what waits; what cannot be written in time is left behind."""
        until = time.monotonic() + timeout_s
        for mode, writer in self._writers.items():
            if not writer.close(max(until - time.monotonic(), 0.0)):
                _log.warning("traces of mode %s could not be written in time", mode)

    def __repr__(self) -> str:
        return f"<Tracer {self._plan.values}, {len(self._plans)} models of their own>"


def begin(plan: Plan, request: InferRequest, call: Call) -> Trace:
    """The trace of a caller's request that is about to be handed over."""
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    start_ns = request.received_ns or now_ns
    context = parent = None
    if plan.origin.spans:
        parent = caller_context(call.metadata)
        context = parent.child() if parent is not None else new_root()
    return Trace(
        plan.origin,
        plan.origin.number(),
        request.model_name,
        start_ns,
        wall_ns - (now_ns - start_ns),
        request.model_version,
        request.id,
        context=context,
        parent=parent,
        attributes=_attributes(call),
    )


def _attributes(call: Call) -> dict[str, Attribute]:
    client = peer_host(call.peer)
    if not call.method.startswith("/"):
        verb, _, route = call.method.partition(" ")
        return {"http.request.method": verb, "http.route": route, "client.address": client}
    service, _, method = call.method.strip("/").rpartition("/")
    return {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "client.address": client,
    }


def _nobody(_trace: Trace) -> None:
    """Takes what is not kept."""


def _family(name: str, text: str, counts: Mapping[str, int]) -> Family:
    samples = (Sample(number, {"mode": mode}) for mode, number in counts.items())
    return Family(name, "counter", text, tuple(samples))


def open_tracer(options: ServerOptions) -> Tracer:
    """The tracer that the options ask for; FailedPrecondition or InvalidArgument if traces could go
    nowhere.
    """
    config = read_trace_config(options.trace_config)
    writers = {}
    if config.file:
        writers[TRITON] = TraceWriter(TraceFile(_place(config.file)))
    if config.spans is not None:
        writers[OPENTELEMETRY] = _exporter(config.spans, options.server_name)
    return Tracer(config, writers)


def _place(file: str) -> Path:
    path = Path(file)
    if not path.parent.is_dir() or path.is_dir():
        raise FailedPrecondition(
            f"--trace-config triton,file={file}: expected a file in a directory that exists"
        )
    return path


def _exporter(export: SpanExport, name: str) -> TraceWriter:
    try:
        from penstock_runtime.observability.trace_spans import open_sink
    except ImportError as error:
        raise InvalidArgument(
            f"--trace-config opentelemetry needs the extra penstock[otel]: {error}"
        ) from None
    sink = open_sink(export.url, export.resource, name, __version__, CODES)
    return TraceWriter(
        sink,
        most=export.max_queue_size,
        batch=export.max_batch_size,
        linger_s=export.schedule_delay_ms / 1000,
    )
