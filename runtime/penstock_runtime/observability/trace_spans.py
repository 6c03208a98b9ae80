"""Traces as the spans of OpenTelemetry, and their way to a collector over OTLP and HTTP.

Imports OpenTelemetry, so it is imported only by servers that are told to trace that way. Spans are
made here, after the fact and in the writer's thread, with the ids that the traces already have.
"""

from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace.status import Status, StatusCode

from penstock_runtime.errors import Internal
from penstock_runtime.errors import Status as Code
from penstock_runtime.observability.span_context import SpanContext
from penstock_runtime.observability.trace_tensors import TracedTensor
from penstock_runtime.observability.tracing import (
    COMPUTE_START,
    QUEUE_START,
    RESPONSE,
    Attribute,
    Execution,
    Trace,
)

SCOPE = "penstock"
STATUS_NUMBER = "rpc.grpc.status_code"
# A batch is told of once, however many of its members are; those of the last so many are known.
_BATCHES_KNOWN = 1024
# The numbers of what a caller did wrong, which is no error of the server: OpenTelemetry's rule.
_FAULT_OF_CALLER = frozenset(
    {
        Code.CANCELLED,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.UNAUTHENTICATED,
    }
)

_UNSET = Status(StatusCode.UNSET)

Attributes = Mapping[str, Attribute]
GENERATION, FIRST_TOKEN = "gen_ai.", "penstock.time_to_first_token_s"


class SpanSink:
    """The sink of mode `opentelemetry`; `codes` are the numbers of statuses in gRPC."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        codes: Mapping[Code, int],
        version: str = "",
    ) -> None:
        self._exporter = exporter
        self.resource = resource
        self._codes = codes
        self._scope = InstrumentationScope(SCOPE, version or None)
        self._told: dict[str, None] = {}
        self._abandoned = False

    def write(self, traces: Sequence[Trace]) -> None:
        """Export the spans of these; raises if the collector does not take them."""
        spans = [span for trace in traces for span in self.spans(trace)]
        if spans and self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise Internal("the collector of traces did not take them")

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Let the connection go."""
        if not self._abandoned:
            self._exporter.shutdown()

    def abandon(self) -> None:
        """Try no longer to reach a collector that does not answer."""
        self._abandoned = True
        self._exporter.shutdown()

    # -- spans -----------------------------------------------------------------------------------

    def spans(self, trace: Trace) -> Iterator[ReadableSpan]:
        """The request's span, those of its steps, and once that of its batch."""
        own = trace.context
        if own is None:
            return
        yield self._request(trace, own)
        if GENERATION + "operation.name" in trace.attributes:
            yield self._generation(trace, own)
        marks = dict(trace.marks)
        queued, done = marks.get(QUEUE_START), trace.execution
        began = done.start_ns if done is not None else marks.get(COMPUTE_START, trace.end_ns)
        if queued is not None:
            yield self._step("queue", trace, own, min(queued, began), began)
        if done is not None:
            yield from self._compute(trace, own, done)
            yield from self._batch(trace, done)
        elif COMPUTE_START in marks:
            yield self._step("compute", trace, own, began, trace.end_ns, failed=True)

    def _request(self, trace: Trace, own: SpanContext) -> ReadableSpan:
        remote = trace.parent_id == 0
        return self._span(
            _name(trace),
            own,
            trace.parent,
            trace.wall(trace.start_ns),
            trace.wall(trace.end_ns),
            {**dict(_attributes(trace)), **self._code(trace)},
            events=_events(trace),
            kind=SpanKind.SERVER if remote else SpanKind.INTERNAL,
            status=_status(trace),
            remote=remote,
        )

    def _generation(self, trace: Trace, own: SpanContext) -> ReadableSpan:
        """What a language model did, as OpenTelemetry's conventions for generative AI have it."""
        said = {name: value for name, value in trace.attributes.items() if _generative(name)}
        return self._span(
            f"{said[GENERATION + 'operation.name']} {trace.model_name}",
            own.child(),
            own,
            trace.wall(trace.start_ns),
            trace.wall(trace.end_ns),
            said,
            status=_status(trace),
        )

    def _code(self, trace: Trace) -> Attributes:
        if trace.parent_id:
            return {}
        return {STATUS_NUMBER: self._codes[trace.status] if trace.status is not None else 0}

    def _compute(self, trace: Trace, own: SpanContext, done: Execution) -> Iterator[ReadableSpan]:
        links = (done.context,) if done.context is not None else ()
        end = max(done.end_ns, done.output_start_ns)
        whole = self._step("compute", trace, own, done.start_ns, end, links=links)
        yield whole
        assert whole.context is not None
        parent = own._replace(span_id=f"{whole.context.span_id:016x}")
        yield self._step("compute_input", trace, parent, done.start_ns, done.input_end_ns)
        yield self._step("compute_infer", trace, parent, done.input_end_ns, done.output_start_ns)
        yield self._step("compute_output", trace, parent, done.output_start_ns, end)

    def _step(
        self,
        name: str,
        trace: Trace,
        parent: SpanContext,
        start_ns: int,
        end_ns: int,
        links: Sequence[SpanContext] = (),
        failed: bool = False,
    ) -> ReadableSpan:
        return self._span(
            name,
            parent.child(),
            parent,
            trace.wall(start_ns),
            trace.wall(end_ns),
            {"triton.model_name": trace.model_name},
            links=links,
            status=_status(trace) if failed else _UNSET,
        )

    def _batch(self, trace: Trace, done: Execution) -> Iterator[ReadableSpan]:
        """The span of the batch, linked to its members, if it is the first time it is told of."""
        context = done.context
        if context is None or context.span_id in self._told:
            return
        if len(self._told) >= _BATCHES_KNOWN:
            del self._told[next(iter(self._told))]
        self._told[context.span_id] = None
        yield self._span(
            f"batch {trace.model_name}",
            context,
            None,
            trace.wall(done.start_ns),
            trace.wall(max(done.end_ns, done.output_start_ns)),
            {
                "triton.model_name": trace.model_name,
                "triton.model_version": trace.model_version,
                "penstock.instance": done.instance,
                "penstock.batch_size": done.rows,
                "penstock.batch_requests": done.requests,
            },
            links=done.members,
        )

    def _span(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        *,
        links: Sequence[SpanContext] = (),
        events: Sequence[Event] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
        remote: bool = False,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context=_context(own),
            parent=_context(parent, remote) if parent is not None else None,
            resource=self.resource,
            attributes=attributes,
            events=events,
            links=[Link(_context(link)) for link in links],
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )


def _context(context: SpanContext, remote: bool = False) -> OtelContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([context.state]) if context.state else TraceState()
    return OtelContext(int(context.trace_id, 16), int(context.span_id, 16), remote, flags, state)


def _attributes(trace: Trace) -> Iterator[tuple[str, Attribute]]:
    yield from ((name, value) for name, value in trace.attributes.items() if not _generative(name))
    yield "triton.model_name", trace.model_name
    yield "triton.model_version", trace.model_version
    yield "triton.request_id", trace.request_id
    yield "triton.trace_id", trace.id
    if trace.parent_id:
        yield "triton.trace_parent_id", trace.parent_id
    yield "penstock.responses", trace.responses
    if trace.cache_hit:
        yield "penstock.cache_hit", True
    if trace.execution is not None:
        yield "penstock.batch_size", trace.execution.rows
        yield "penstock.instance", trace.execution.instance
    if trace.status is not None:
        yield "error.type", trace.status.value


def _generative(name: str) -> bool:
    return name.startswith((GENERATION, FIRST_TOKEN))


def _name(trace: Trace) -> str:
    """The full method of a caller's request, else the model that was asked from inside."""
    service = trace.attributes.get("rpc.service")
    return f"{service}/{trace.attributes['rpc.method']}" if service else f"infer {trace.model_name}"


def _events(trace: Trace) -> list[Event]:
    """The responses of a stream, and what its tensors are; their data stays here."""
    events = []
    if trace.responses > 1:
        events = [
            Event("response", {"index": index}, timestamp=trace.wall(ns))
            for index, ns in enumerate(ns for name, ns in trace.marks if name == RESPONSE)
        ]
    return events + [_tensor_event(trace, tensor) for tensor in trace.bag.tensors]


def _tensor_event(trace: Trace, tensor: TracedTensor) -> Event:
    at_ns = trace.start_ns if "INPUT" in tensor.activity else trace.end_ns
    said = {
        "name": tensor.name,
        "datatype": tensor.datatype.value,
        "shape": ",".join(map(str, tensor.shape)),
    }
    return Event(tensor.activity, said, timestamp=trace.wall(at_ns))


def _status(trace: Trace) -> Status:
    if trace.status is None or trace.status in _FAULT_OF_CALLER:
        return _UNSET
    return Status(StatusCode.ERROR, trace.message)


def open_sink(
    url: str, resource: Mapping[str, str], name: str, version: str, codes: Mapping[Code, int]
) -> SpanSink:
    """The sink that exports to this URL; "" for that of the environment (OTEL_*).

    The resource is what the environment says of it, and `resource`, which wins; `name` is that of
    the service where neither has one.
    """
    if url and "://" not in url:
        url = f"http://{url}"
    made = Resource.create({"service.version": version, **resource})
    if str(made.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        made = made.merge(Resource({"service.name": name}))
    return SpanSink(OTLPSpanExporter(endpoint=url or None), made, codes, version)
