"""Example programs of Triton's client repository beyond those of tests/e2e/test_tritonclient.py.

Those for sequences are in tests/e2e/test_sequences.py, those for shared memory in
tests/e2e/test_shared_memory.py; here is what they meet on a server that does not allow it.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

NUMBERS = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server with the models that the programs name, on each transport."""
    with ServerThread(options([MODELS], transport=request.param)) as made:
        yield made


def test_bare_stubs_are_answered(running: Running) -> None:
    """grpc_client: every call with Triton's own messages, and nothing of its client around them."""
    with grpc.insecure_channel(running.target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="simple", id="my request id")
        for name in ("INPUT0", "INPUT1"):
            request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            request.raw_input_contents.append(NUMBERS.tobytes())
        for name in ("OUTPUT0", "OUTPUT1"):
            request.outputs.add(name=name)

        live = stub.ServerLive(service_pb2.ServerLiveRequest())
        ready = stub.ServerReady(service_pb2.ServerReadyRequest())
        model = stub.ModelReady(service_pb2.ModelReadyRequest(name="simple"))
        server = stub.ServerMetadata(service_pb2.ServerMetadataRequest())
        metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="simple"))
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="simple"))
        response = stub.ModelInfer(request)

    assert (live.live, ready.ready, model.ready) == (True, True, True)
    assert server.name
    assert metadata.name == config.config.name == "simple"
    assert np.frombuffer(response.raw_output_contents[0], np.int32).tolist() == list(
        range(0, 32, 2)
    )


def test_inputs_and_outputs_can_be_used_again(running: Running) -> None:
    """reuse_infer_objects_client: one set of objects, its data changed between the requests."""
    inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    outputs = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]

    sums = []
    with triton.InferenceServerClient(running.target) as client:
        for number in range(20):
            for tensor in inputs:
                tensor.set_data_from_numpy(NUMBERS * number)
            result = client.infer("simple", inputs, outputs=outputs)
            sums.append(int(result.as_numpy("OUTPUT0").sum()))

    assert sums == [int(NUMBERS.sum()) * 2 * number for number in range(20)]


def test_many_calls_on_a_cancelled_and_reopened_stream_are_answered(running: Running) -> None:
    """client_cancellation: a stream is dropped half-way, and the next one of the client works."""
    values: dict[str, Any] = {
        "IN": np.arange(100, dtype=np.int32),
        "DELAY": np.full(100, 20, np.uint32),
        "WAIT": np.zeros(1, np.uint32),
    }
    inputs = []
    for name, array in values.items():
        datatype = "INT32" if name == "IN" else "UINT32"
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)

    with triton.InferenceServerClient(running.target) as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("repeat_int32", inputs)
        client.stop_stream(cancel_requests=True)
        tensors = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for tensor in tensors:
            tensor.set_data_from_numpy(NUMBERS)
        result = client.infer("simple", tensors)

    assert int(result.as_numpy("OUTPUT0").sum()) == 2 * int(NUMBERS.sum())


@pytest.mark.parametrize("call", ["register_system_shared_memory", "register_cuda_shared_memory"])
def test_shared_memory_is_refused_by_name(running: Running, call: str) -> None:
    """simple_grpc_shm_client and its siblings end with UNIMPLEMENTED, not with a broken stream."""
    arguments = ("name", "/key", 64) if "system" in call else ("name", b"aGFuZGxl", 0, 64)

    with (
        triton.InferenceServerClient(running.target) as client,
        pytest.raises(InferenceServerException) as refused,
    ):
        getattr(client, call)(*arguments)

    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
