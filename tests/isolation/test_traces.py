"""The trace of a request goes on in the process of its model, and comes back from there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.e2e.asking import tensors, write
from tests.e2e.running import ServerThread, options
from tests.otlp_collector import Collector

CONFIG = """
backend: "python"
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group { kind: KIND_PROCESS }
"""
# Answers with the context of its trace, after it has called another model.
OUTER = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        asked = pb_utils.InferenceRequest(
            model_name="inner", inputs=request.inputs(), requested_output_names=["Y"]
        )
        assert not asked.exec().has_error()
        told = (request.trace().get_context() or "").encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([told], np.object_))])
"""
INNER = """
import numpy as np
from penstock import BYTES, FP32, Context, model


@model
def inner(X: FP32[1], context: Context) -> BYTES[1].named("Y"):
    told = context.trace.carrier if context.trace else ""
    return np.array([(told or "").encode()], np.object_)
"""
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ONE = np.ones(1, np.float32)


def models(root: Path) -> Path:
    """Both of them apart."""
    write(root, "outer", OUTER, CONFIG)
    write(root, "inner", INNER, "instance_group { kind: KIND_PROCESS }")
    return root


def test_spans_of_calls_are_children_of_what_they_are_made_for(tmp_path: Path) -> None:
    """By the context that the model sees, which is the caller's trace."""
    collector = Collector()
    flags = ("mode=opentelemetry", f"opentelemetry,url={collector.url}", "level=TIMESTAMPS")
    try:
        with (
            ServerThread(options([models(tmp_path)], trace_config=flags)) as made,
            triton.InferenceServerClient(made.target) as client,
        ):
            headers = {"traceparent": CALLER}
            found = [
                client.infer(model, tensors(X=ONE), headers=headers).as_numpy("Y")[0]
                for model in ("outer", "inner")
            ]
    finally:
        collector.stop()

    contexts = [json.loads(told)["traceparent"] for told in found]
    assert [context[3:35] for context in contexts] == [CALLER[3:35]] * 2
    spans = [span for span in collector.spans() if span.trace_id.hex() == CALLER[3:35]]
    parents = {span.span_id.hex(): span.parent_span_id.hex() for span in spans}
    outer = contexts[0][36:52]
    assert parents[outer] == CALLER[36:52]
    assert outer in [parent for span, parent in parents.items() if span != outer]


def test_times_of_the_process_are_among_those_of_the_trace(tmp_path: Path) -> None:
    """Between the begin and the end of the computation; the call is a trace of its own."""
    file = tmp_path / "trace.json"
    flags = (f"triton,file={file}", "rate=1", "level=TIMESTAMPS")
    (tmp_path / "models").mkdir()
    with (
        ServerThread(options([models(tmp_path / "models")], trace_config=flags)) as made,
        triton.InferenceServerClient(made.target) as client,
    ):
        client.infer("outer", tensors(X=ONE))

    traces: list[dict[str, Any]] = json.loads(file.read_text())
    by_model = {trace["model_name"]: trace for trace in traces if "model_name" in trace}
    assert by_model["inner"]["parent_id"] == by_model["outer"]["id"]
    times = [trace for trace in traces if "timestamps" in trace]
    assert len(times) == 2
    for trace in times:
        names = [mark["name"] for mark in trace["timestamps"]]
        order = ["COMPUTE_START", "PROCESS_RECEIVED", "PROCESS_ANSWERED", "COMPUTE_END"]
        assert [name for name in names if name in order] == order
