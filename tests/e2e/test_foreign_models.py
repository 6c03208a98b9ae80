"""ONNX models and models of MLServer and TorchServe on a whole server, asked by tritonclient.

MLServer's package is a stand-in here unless the real one is installed; tests/interop meets that.
"""

import json
import queue
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tests.e2e.running import Running, ServerThread, options
from tests.runtime.mar_files import archive, members
from tests.runtime.mlserver_package import install
from tests.runtime.onnx_folders import identity, sums
from tritonclient.utils import InferenceServerException

MLSERVER = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, Parameters, ResponseOutput

class Scale(MLModel):
    async def predict(self, payload):
        x = payload.inputs[0]
        factor = getattr(payload.parameters, "factor", 2)
        y = ResponseOutput(
            name="y", shape=x.shape, datatype="FP32", data=[factor * v for v in x.data]
        )
        return InferenceResponse(
            model_name="scale", outputs=[y], parameters=Parameters(rows=x.shape[0])
        )

class Count(MLModel):
    async def predict_stream(self, payloads):
        async for payload in payloads:
            for n in range(int(payload.inputs[0].data[0])):
                y = ResponseOutput(name="y", shape=[1], datatype="FP32", data=[n])
                yield InferenceResponse(model_name="count", outputs=[y])
"""
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    for at, row in enumerate(data):
        if row["body"] == b"bad":
            context.set_response_status(code=422, phrase="bad row", idx=at)
    return [row["body"][::-1] for row in data]
"""


def settings(name: str, kind: str, shape: list[int], **more: Any) -> str:
    def tensor(called: str) -> dict[str, Any]:
        return {"name": called, "datatype": "FP32", "shape": shape}

    given = {"name": name, "implementation": f"models.{kind}", **more}
    return json.dumps({**given, "inputs": [tensor("x")], "outputs": [tensor("y")]})


def build(root: Path) -> Path:
    """A repository with a model of each kind; those of other servers have no version folders."""
    for name, model in (("sums", sums()), ("texts", identity(TensorProto.STRING))):
        (root / name / "1").mkdir(parents=True)
        onnx.save(model, str(root / name / "1" / "model.onnx"))
    batching = {"max_batch_size": 4, "max_batch_time": 0.001}
    for name, text in (
        ("scale", settings("scale", "Scale", [-1, 2], **batching)),
        ("count", settings("count", "Count", [1])),
    ):
        (root / name).mkdir()
        (root / name / "models.py").write_text(MLSERVER)
        (root / name / "model-settings.json").write_text(text)
    (root / "mirror").mkdir()
    yaml = {"c.yaml": "batchSize: 4\nmaxBatchDelay: 2\n"}
    content = members(HANDLER, yaml, configFile="c.yaml")
    (root / "mirror" / "mirror.mar").write_bytes(archive(content))
    return root


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with all of them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        root = build(tmp_path_factory.mktemp("foreign"))
        chosen = options([root], model_control_mode="explicit", load_model=("*",))
        with ServerThread(chosen) as made:
            yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def given(datatype: str = "FP32", **arrays: Any) -> list[Any]:
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def test_every_model_is_ready(client: Any) -> None:
    """Each kind is loaded, with and without version folders."""
    for name in ("sums", "texts", "scale", "count", "mirror"):
        assert client.is_model_ready(name), name


def test_an_onnx_model_answers_as_numpy_does(client: Any) -> None:
    """Both outputs, and one that is asked for alone."""
    a = np.arange(8, dtype=np.float32).reshape(2, 4)

    both = client.infer("sums", given(a=a, b=a * 2))
    wanted = [triton.InferRequestedOutput("difference")]
    one = client.infer("sums", given(a=a, b=a * 2), outputs=wanted)

    np.testing.assert_array_equal(both.as_numpy("sum"), a * 3)
    np.testing.assert_array_equal(one.as_numpy("difference"), -a)
    assert one.as_numpy("sum") is None


def test_an_onnx_model_says_what_it_is(client: Any) -> None:
    """Metadata and configuration are the model's own."""
    metadata = client.get_model_metadata("sums", as_json=True)
    config = client.get_model_config("sums", as_json=True)["config"]

    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": ["-1", "4"]}
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 4


def test_a_text_that_is_none_fails_alone(client: Any) -> None:
    """INVALID_ARGUMENT for bytes that are no UTF-8; the next request is answered."""
    bad, good = (np.array([[first, b"b", b"c"]], dtype=object) for first in (b"\xff", b"a"))

    with pytest.raises(InferenceServerException, match="not UTF-8") as caught:
        client.infer("texts", given("BYTES", x=bad))
    answer = client.infer("texts", given("BYTES", x=good))

    assert "INVALID_ARGUMENT" in str(caught.value.status())
    assert answer.as_numpy("y").tolist() == good.tolist()


def test_a_custom_runtime_answers_with_its_parameters(client: Any) -> None:
    """Parameters of the request reach the model, those of the response the client."""
    x = np.array([[1, 2], [3, 4]], np.float32)

    plain = client.infer("scale", given(x=x))
    asked = client.infer("scale", given(x=x), parameters={"factor": 10})

    np.testing.assert_array_equal(plain.as_numpy("y"), x * 2)
    np.testing.assert_array_equal(asked.as_numpy("y"), x * 10)
    assert plain.get_response().parameters["rows"].int64_param == 2


def test_callers_at_once_get_their_own_answers(client: Any, running: Running) -> None:
    """Requests that are batched together, of two kinds of parameters, are answered each."""
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        with triton.InferenceServerClient(running.target) as own:
            x = np.full((1, 2), number, np.float32)
            factor = {"parameters": {"factor": 3}} if number % 2 else {}
            answers[number] = own.infer("scale", given(x=x), **factor).as_numpy("y")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {n: a[0, 0] for n, a in answers.items()} == {n: n * (2 + n % 2) for n in range(8)}


def test_predict_stream_is_a_stream(client: Any) -> None:
    """A model that only streams answers a stream, response by response."""
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(partial(lambda q, result, error: q.put((result, error)), came))
    client.async_stream_infer(
        "count", given(x=np.array([3], np.float32)), enable_empty_final_response=True
    )
    found = []
    while True:
        result, error = came.get(timeout=20)
        assert error is None
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
        found.append(float(result.as_numpy("y")[0]))
    client.stop_stream()

    assert found == [0.0, 1.0, 2.0]


def test_a_handler_answers_row_by_row(client: Any) -> None:
    """Each row is a request of TorchServe's, and a status of failure is that request's alone."""
    rows = np.array([[b"abc"], [b"\xff\x00"]], dtype=object)

    answer = client.infer("mirror", given("BYTES", data=rows))
    with pytest.raises(InferenceServerException, match="answers 422: bad row"):
        client.infer("mirror", given("BYTES", data=np.array([[b"bad"]], dtype=object)))

    assert answer.as_numpy("output").tolist() == [[b"cba"], [b"\x00\xff"]]


def test_all_are_unloaded_and_loaded_again(client: Any) -> None:
    """The life of such a model is that of any other."""
    x = np.array([[1, 2]], np.float32)
    for name in ("sums", "scale", "mirror"):
        client.unload_model(name)
        assert not client.is_model_ready(name)
        client.load_model(name)

    assert client.infer("scale", given(x=x)).as_numpy("y").tolist() == [[2, 4]]
