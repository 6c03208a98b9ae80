"""Laws of batches of MLServer models: whatever requests come together, each gets the answer that it
would have got alone.
"""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime import mlserver_package as package

from penstock_runtime.backends.mlserver.instance import Hosted, MLServerExecutable
from penstock_runtime.backends.mlserver.messages import MessagePlan
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

CONFIG = ModelConfig(
    name="m",
    max_batch_size=64,
    input=(ModelInput("x", DataType.INT32, (1,)),),
    output=(ModelOutput("y", DataType.INT64, (1,)), ModelOutput("z", DataType.BYTES, (1,))),
)


def answer(request: Any) -> Any:
    """Each value times the factor; z as text, where it is asked for."""
    factor = getattr(request.parameters, "factor", 1)
    names = [output.name for output in request.outputs or ()] or ["y", "z"]
    values = [value * factor for value in request.inputs[0].data]
    outputs = [
        package.ResponseOutput(
            name=name,
            shape=request.inputs[0].shape,
            datatype="INT64" if name == "y" else "BYTES",
            data=values if name == "y" else [str(value) for value in values],
        )
        for name in names
    ]
    parameters = package.Parameters(factor=factor)
    return package.InferenceResponse(model_name="m", outputs=outputs, parameters=parameters)


class Immediate:
    """Answers in the calling thread."""

    def predict(self, request: Any) -> Any:
        return request

    @property
    def runner(self) -> "Immediate":
        return self

    def run(self, request: Any, given_up: Any) -> Any:
        assert not given_up()
        return answer(request)


def executable() -> MLServerExecutable:
    types = SimpleNamespace(
        RequestInput=package.RequestInput,
        RequestOutput=package.RequestOutput,
        InferenceRequest=package.InferenceRequest,
        Parameters=package.Parameters,
    )
    hosted = cast(Hosted, Immediate())
    return MLServerExecutable(MessagePlan(CONFIG, types), hosted, batched=True)


requests = st.lists(
    st.tuples(
        st.lists(st.integers(-9, 9), min_size=1, max_size=3),
        st.sampled_from([{}, {"factor": 2}, {"factor": 3}]),
        st.sampled_from([(), ("y",), ("z",), ("z", "y")]),
    ),
    min_size=1,
    max_size=8,
)


@given(requests)
def test_each_request_is_answered_as_if_it_were_alone(
    asked: list[tuple[list[int], dict[str, int], tuple[str, ...]]],
) -> None:
    """Parameters and wanted outputs of others change nothing for any row."""
    instance = executable()
    contexts = []
    for values, parameters, wanted in asked:
        x = tensor("x", np.array(values, np.int32).reshape(-1, 1))
        outputs = tuple(RequestedOutput(name) for name in wanted)
        request = InferRequest("m", (x,), outputs=outputs, parameters=parameters)
        contexts.append(RequestContext(request, ResponseStream()))
    merged = np.array([[v] for values, _, _ in asked for v in values], np.int32)

    found = instance.execute({"x": merged}, contexts)

    at = 0
    for (values, parameters, wanted), context in zip(asked, contexts, strict=True):
        rows = slice(at, at + len(values))
        expected = [value * parameters.get("factor", 1) for value in values]
        if not wanted or "y" in wanted:
            assert found["y"][rows, 0].tolist() == expected
        if not wanted or "z" in wanted:
            assert found["z"][rows, 0].tolist() == [str(v).encode() for v in expected]
        assert context.response_parameters == {"factor": parameters.get("factor", 1)}
        at += len(values)
    assert all(len(array) == at for array in found.values())
