"""Traces as spans: parents, links, attributes, status, and their way to a collector over HTTP."""

from collections.abc import Iterator

import numpy as np
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.otlp_collector import Collector
from tests.runtime.traces import WALL, Collected

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, Status
from penstock_runtime.observability.span_context import SpanContext
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_spans import SpanSink, open_sink
from penstock_runtime.observability.trace_tensors import QUEUE_INPUT
from penstock_runtime.observability.trace_writer import TraceWriter
from penstock_runtime.observability.tracing import Execution, Trace, batch_context
from penstock_runtime.tensor import Tensor

CODES = {Status.INTERNAL: 13, Status.INVALID_ARGUMENT: 3, Status.UNAVAILABLE: 14}
CALLER = SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "v=1")
RPC = {"rpc.system": "grpc", "rpc.service": "a.Service", "rpc.method": "ModelInfer"}


def exported(*traces: Trace) -> dict[str, list[ReadableSpan]]:
    """The spans of these by name."""
    exporter = InMemorySpanExporter()
    SpanSink(exporter, Resource({}), CODES).write(traces)
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def execution(*members: Trace, rows: int = 8) -> Execution:
    contexts = tuple(trace.context for trace in members if trace.context is not None)
    return Execution("m_0_1", rows, 5, 20, 25, 60, 70, batch_context(contexts), contexts)


def executed(collected: Collected, parent: SpanContext | None = CALLER) -> Trace:
    trace = collected.begin("m", 10, parent, request_id="r1", attributes=dict(RPC))
    trace.mark("QUEUE_START", 12)
    return trace


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_request_is_a_server_span_with_its_steps_as_children() -> None:
    """The caller's span is its parent, and every step lies where it was in time."""
    collected = Collected(spans=True)
    trace = executed(collected)
    trace.model_version = "3"
    trace.responded(75)
    trace.executed(execution(trace))
    trace.finish(80)

    spans = exported(trace)

    (own,) = spans["a.Service/ModelInfer"]
    assert own.kind is SpanKind.SERVER
    assert own.parent is not None
    assert own.context is not None
    assert f"{own.parent.span_id:016x}" == CALLER.span_id
    assert own.parent.is_remote
    assert f"{own.context.trace_id:032x}" == CALLER.trace_id
    assert own.context.trace_state.to_header() == "v=1"
    assert (own.start_time, own.end_time) == (WALL + 10, WALL + 80)
    steps = ("queue", "compute", "compute_input", "compute_infer", "compute_output")
    times = {name: (s.start_time or 0, s.end_time or 0) for name in steps for s in spans[name]}
    assert {name: (a - WALL, b - WALL) for name, (a, b) in times.items()} == {
        "queue": (12, 20),
        "compute": (20, 70),
        "compute_input": (20, 25),
        "compute_infer": (25, 60),
        "compute_output": (60, 70),
    }
    (compute,) = spans["compute"]
    for name in steps:
        (step,) = spans[name]
        above = compute if name.startswith("compute_") else own
        assert step.parent is not None
        assert above.context is not None
        assert step.parent.span_id == above.context.span_id


def test_the_span_says_what_was_asked_and_how_it_ended() -> None:
    """Model, request, batch and RPC are attributes."""
    collected = Collected(spans=True)
    trace = executed(collected)
    trace.model_version = "3"
    trace.responded(75)
    trace.executed(execution(trace))
    trace.finish(80)

    (own,) = exported(trace)["a.Service/ModelInfer"]

    assert attributes(own) == {
        **RPC,
        "rpc.grpc.status_code": 0,
        "triton.model_name": "m",
        "triton.model_version": "3",
        "triton.request_id": "r1",
        "triton.trace_id": 1,
        "penstock.responses": 1,
        "penstock.batch_size": 8,
        "penstock.instance": "m_0_1",
    }
    assert own.status.status_code is StatusCode.UNSET


def test_a_batch_is_one_span_linked_to_all_its_members() -> None:
    """And their computing to it; it is told of once, in a trace of its own."""
    collected = Collected(spans=True)
    one, two = executed(collected), executed(collected, None)
    batch = execution(one, two)
    for trace in (one, two):
        trace.executed(batch)
        trace.finish(80)

    spans = exported(one, two)

    (span,) = spans["batch m"]
    assert span.parent is None
    assert span.context is not None
    linked = [(f"{x.context.trace_id:032x}", f"{x.context.span_id:016x}") for x in span.links]
    members = [trace.context for trace in (one, two) if trace.context is not None]
    assert linked == [(context.trace_id, context.span_id) for context in members]
    assert f"{span.context.trace_id:032x}" not in {context.trace_id for context in members}
    for compute in spans["compute"]:
        assert [link.context.span_id for link in compute.links] == [span.context.span_id]
    assert attributes(span)["penstock.batch_size"] == 8
    assert attributes(span)["penstock.batch_requests"] == 5


def test_a_failure_of_the_server_is_an_error_and_one_of_the_caller_is_not() -> None:
    """OpenTelemetry's rule for servers; the number of the status is told either way."""
    collected = Collected(spans=True)
    broken, wrong = executed(collected), executed(collected)
    broken.mark("COMPUTE_START", 30)
    broken.finish(40, Status.INTERNAL, "execution failed: ValueError")
    wrong.finish(40, Status.INVALID_ARGUMENT, "unexpected shape")

    spans = exported(broken, wrong)

    first, second = spans["a.Service/ModelInfer"]
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "execution failed: ValueError"
    assert attributes(first)["rpc.grpc.status_code"] == 13
    assert attributes(first)["error.type"] == "INTERNAL"
    (compute,) = spans["compute"]
    assert compute.status.status_code is StatusCode.ERROR
    assert (compute.start_time, compute.end_time) == (WALL + 30, WALL + 40)
    assert second.status.status_code is StatusCode.UNSET
    assert attributes(second)["rpc.grpc.status_code"] == 3


def test_a_request_made_by_another_is_its_child() -> None:
    """A step of an ensemble, a call of a model: inside the process, named after its model."""
    collected = Collected(spans=True)
    outer = executed(collected)
    inner = outer.child("inner", 30)
    inner.finish(40)
    outer.finish(50)

    spans = exported(inner, outer)

    (span,), (above,) = spans["infer inner"], spans["a.Service/ModelInfer"]
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is not None
    assert above.context is not None
    assert span.parent.span_id == above.context.span_id
    assert not span.parent.is_remote
    assert attributes(span)["triton.trace_parent_id"] == 1
    assert "rpc.grpc.status_code" not in attributes(span)


def test_responses_of_a_stream_and_what_its_tensors_are_become_events() -> None:
    """The data of tensors stays on this machine."""
    collected = Collected(Level.TIMESTAMPS | Level.TENSORS, spans=True)
    trace = executed(collected)
    array = np.array([[7]], np.int32)
    trace.tensors(QUEUE_INPUT, (Tensor("X", DataType.INT32, (1, 1), array),))
    for at in (30, 40):
        trace.responded(at)
    trace.finish(50)

    (own,) = exported(trace)["a.Service/ModelInfer"]

    told = [
        (event.name, dict(event.attributes or {}), event.timestamp - WALL) for event in own.events
    ]
    assert told == [
        ("response", {"index": 0}, 30),
        ("response", {"index": 1}, 40),
        ("TENSOR_QUEUE_INPUT", {"name": "X", "datatype": "INT32", "shape": "1,1"}, 10),
    ]


# -- to a collector ------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


def test_spans_reach_a_collector_over_http(collector: Collector) -> None:
    """As OTLP, with the resource that the operator named and the service that is always told."""
    collected = Collected(spans=True)
    sink = open_sink(collector.url, {"deployment": "test"}, "penstock", "1.2", CODES)
    writer = TraceWriter(sink, linger_s=0.0)
    trace = executed(collected)
    trace.executed(execution(trace))
    trace.finish(80)

    writer.put(trace)

    assert writer.close(30)
    assert collector.paths == ["/v1/traces"]
    (of_resource,) = collector.requests[0].resource_spans
    resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
    assert resource["deployment"] == "test"
    assert resource["service.name"] == "penstock"
    assert resource["service.version"] == "1.2"
    spans = [span for scope in of_resource.scope_spans for span in scope.spans]
    assert len(spans) == 7
    assert {span.trace_id.hex() for span in spans if span.name != "batch m"} == {CALLER.trace_id}


def test_the_environment_names_the_service_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are OpenTelemetry's own way to say it."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=1,b=2")

    sink = open_sink("", {"b": "3"}, "penstock", "1", CODES)

    said = sink.resource.attributes
    assert (said["service.name"], said["a"], said["b"]) == ("mine", "1", "3")
    sink.close()


def test_a_collector_that_refuses_costs_traces_only(collector: Collector) -> None:
    """The writer counts them, and goes on."""
    collector.status = 400
    collected = Collected(spans=True)
    sink = open_sink(collector.url, {}, "penstock", "1", CODES)
    writer = TraceWriter(sink, linger_s=0.0)

    writer.put(collected.ended())
    assert writer.flush(30)
    collector.status = 200
    writer.put(collected.ended())

    assert writer.close(30)
    assert (writer.written, writer.dropped) == (1, 1)


def test_a_sink_says_that_its_collector_took_nothing(collector: Collector) -> None:
    """That is what the writer counts by."""
    collector.status = 400
    sink = open_sink(collector.url, {}, "penstock", "1", CODES)

    with pytest.raises(Internal, match="did not take them"):
        sink.write([Collected(spans=True).ended()])
    sink.close()


def test_what_a_language_model_did_is_a_span_under_its_conventional_name() -> None:
    """A child of the call's, with all that is said of it and nothing of the call."""
    collected = Collected(spans=True)
    trace = executed(collected)
    trace.attributes |= {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("stop",),
        "penstock.time_to_first_token_s": 0.25,
    }
    trace.finish(100)

    spans = exported(trace)

    (call,), (chat,) = spans["a.Service/ModelInfer"], spans["chat m"]
    assert chat.parent is not None
    assert call.context is not None
    assert chat.parent.span_id == call.context.span_id
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("stop",),
        "penstock.time_to_first_token_s": 0.25,
    }
    assert not [name for name in attributes(call) if name.startswith("gen_ai.")]
