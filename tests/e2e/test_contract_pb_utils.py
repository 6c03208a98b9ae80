"""What Triton models are promised, asked of a whole server: the module's numbers and names, its
log, who holds which memory, and how a model ends.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tritonclient.grpc import service_pb2

HEAD = """
import json, pathlib, time
import numpy as np
import triton_python_backend_utils as pb_utils

def value(request):
    return pb_utils.get_input_tensor_by_name(request, "X").as_numpy()

def answer(array):
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.asarray(array, np.float32))])

def call(model, array):
    tensors = [pb_utils.Tensor("X", np.asarray(array, np.float32))]
    return pb_utils.InferenceRequest(model_name=model, inputs=tensors, requested_output_names=["Y"])

def address(array):
    return array.__array_interface__["data"][0]

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]
"""
PLAIN = """
backend: "python"
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
HOLDS = """instance_group {
  count: 1 kind: KIND_CPU rate_limiter { resources { name: "R" global: true count: 1 } } }
"""
STEPS = "max_batch_size: 4 sequence_batching { iterative_sequence: true }"
# What the module says of itself, as one text.
CENSUS = """
    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def one(self, request):
        texts = pb_utils.deserialize_bytes_tensor(
            pb_utils.serialize_byte_tensor(np.array([b"a", b"bc"], np.object_)).item()
        )
        told = {
            "final": pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            "flags": [
                pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
                pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
                pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL,
                pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
            ],
            "input": pb_utils.get_input_config_by_name(self.config, "X")["data_type"],
            "output": pb_utils.get_output_config_by_name(self.config, "nowhere"),
            "decoupled": pb_utils.using_decoupled_model_transaction_policy(self.config),
            "type": pb_utils.triton_string_to_numpy("TYPE_INT16").__name__,
            "number": pb_utils.numpy_to_triton_type(np.float32),
            "back": pb_utils.triton_to_numpy_type(11).__name__,
            "texts": [text.decode() for text in texts.tolist()],
            "context": request.trace().get_context(),
            "there": pb_utils.is_model_ready("census"),
        }
        for level in ("info", "warn", "error", "verbose"):
            getattr(pb_utils.Logger, f"log_{level}")(f"census at {level}")
        text = np.array([json.dumps(told).encode()], np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", text)])
"""
MODELS = {
    "inner": (
        "    def one(self, request):\n        array = value(request)\n"
        "        return answer([address(array)]) if array[0] < 0 else answer(array)\n",
        PLAIN,
    ),
    # Whether what the model that it calls gets, and gives, lies where it is.
    "outer": (
        """
    def one(self, request):
        array = value(request)
        (seen,) = call("inner", array).exec().output_tensors()
        there = np.float32(address(array)) == seen.as_numpy()[0]
        positive = np.abs(array)
        (back,) = call("inner", positive).exec().output_tensors()
        return answer([there, address(back.as_numpy()) == address(positive)])
""",
        PLAIN,
    ),
    "writes": (
        "    def one(self, request):\n        array = value(request)\n        array += 1\n"
        "        return answer(array)\n",
        PLAIN,
    ),
    "ends": (
        """
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])

    def one(self, request):
        return answer(value(request))

    def finalize(self):
        (self.folder / "finalized").touch()
""",
        PLAIN,
    ),
    "steps": (
        """
    COUNT = 0

    def one(self, request):
        TritonPythonModel.COUNT += 1
        if TritonPythonModel.COUNT % 3:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return None
        return answer([[TritonPythonModel.COUNT]])
""",
        PLAIN + STEPS,
    ),
    "waits": (
        """
    BEGUN, SEEN = [], []

    def one(self, request):
        self.BEGUN.append(True)
        limit = time.monotonic() + 20
        while not request.is_cancelled() and time.monotonic() < limit:
            time.sleep(0.002)
        self.SEEN.append(request.is_cancelled())
        return answer(value(request))
""",
        PLAIN,
    ),
    "asks": (
        "    def one(self, request):\n"
        "        response = call('waits', value(request)).exec()\n"
        "        return answer([response.has_error()])\n",
        PLAIN,
    ),
    "needs": (
        "    def one(self, request):\n        return answer(value(request))\n",
        PLAIN + HOLDS,
    ),
    "holds": (
        "    def one(self, request):\n"
        "        error = call('needs', value(request)).exec().error()\n"
        "        return pb_utils.InferenceResponse(error=error)\n",
        PLAIN + HOLDS,
    ),
    "census": (CENSUS, PLAIN.replace('"Y" data_type: TYPE_FP32', '"Y" data_type: TYPE_STRING')),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for name, (code, config) in MODELS.items():
        write(made, name, HEAD + code, config)
    return made


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Running]:
    """One server with all of them."""
    settings = options(
        [root], model_control_mode="explicit", load_model=("*",), rate_limit="execution_count"
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def ask(client: Any, model: str, *values: float, **more: Any) -> Any:
    """The output of a model."""
    array = np.array(more.pop("array", values), np.float32)
    return client.infer(model, tensors(X=array), **more).as_numpy("Y")


def test_numbers_names_and_types_are_those_of_triton(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As a model on a server finds them; a request that nobody traces has no context; what a model
    logs is in the server's log.
    """
    with caplog.at_level(logging.DEBUG, "penstock"):
        told = json.loads(ask(client, "census", 1)[0])

    assert told == {
        "final": 1,
        "flags": [1, 2, 1, 2],
        "input": "TYPE_FP32",
        "output": None,
        "decoupled": False,
        "type": "int16",
        "number": 11,
        "back": "float32",
        "texts": ["a", "bc"],
        "context": None,
        "there": True,
    }
    levels = {r.message: r.levelname for r in caplog.records if "census at" in r.message}
    assert levels["census at info"] == "INFO"
    assert levels["census at warn"] == "WARNING"
    assert levels["census at error"] == "ERROR"


def test_tensors_of_a_call_stay_where_they_are(client: Any) -> None:
    """The caller's memory is what the called model sees, and what comes back is that again."""
    assert ask(client, "outer", *[-1.0] * 1000).tolist() == [1, 1]


def test_a_model_that_writes_into_its_inputs_changes_nothing(client: Any) -> None:
    """The same numbers give the same answer."""
    assert [ask(client, "writes", 1, 2).tolist() for _ in range(3)] == [[2, 3]] * 3


def test_a_model_is_told_that_it_ends(client: Any, root: Path) -> None:
    """`finalize`, at the unload."""
    found = root / "ends" / "finalized"
    assert not found.exists()

    client.unload_model("ends")

    eventually(found.exists, "finalize was called")


def test_a_request_is_rescheduled_until_it_is_released(client: Any) -> None:
    """By `set_release_flags`: three executions for one answer."""
    more = {"sequence_id": 3, "sequence_start": True, "sequence_end": True}

    assert ask(client, "steps", array=[[1.0]], **more).tolist() == [[3]]


def test_a_call_ends_with_the_deadline_of_what_it_is_made_for(
    running: Running, client: Any
) -> None:
    """And with its caller's caller, for whom nobody waits any more."""
    loaded: Any = running.server.core.model("waits")
    begun, seen = loaded._loaded._target.BEGUN, loaded._loaded._target.SEEN
    request = service_pb2.ModelInferRequest(model_name="asks")
    request.inputs.add(name="X", datatype="FP32", shape=[1])
    request.raw_input_contents.append(bytes(4))
    client.is_server_live()  # the connection is not part of the deadline
    # The client's own clock and the server's end at once: either may be the first to say it.
    with contextlib.suppress(triton.InferenceServerException):
        assert ask(client, "asks", 1, client_timeout=1.0).tolist() == [1]
    eventually(lambda: seen == [True], "the deadline reached the called model")
    with stub_of(running) as stub:
        call = stub.ModelInfer.future(request, timeout=20)
        eventually(lambda: len(begun) == 2, "it executes")
        call.cancel()

        eventually(lambda: seen == [True, True], "the cancellation reached it")


def test_a_call_that_would_wait_for_what_its_caller_holds_is_refused(running: Running) -> None:
    """Both models and the resource are named; who is asked alone answers."""
    request = service_pb2.ModelInferRequest(model_name="holds")
    request.inputs.add(name="X", datatype="FP32", shape=[1])
    request.raw_input_contents.append(bytes(4))
    with stub_of(running) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=20)
        request.model_name = "needs"
        answered = stub.ModelInfer(request, timeout=20)

    assert "model 'holds' cannot wait for model 'needs'" in refused.value.details()
    assert "resource 'R' of the rate limiter" in refused.value.details()
    assert answered.raw_output_contents[0] == bytes(4)
