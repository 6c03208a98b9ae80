"""What configurations, datatypes and statistics are promised to be, asked of a whole server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tests.runtime.onnx_folders import sums
from tritonclient.grpc import service_pb2

from penstock_protos.inference import ModelMetadataResponse

TENSORS = """
# A comment, and names in single quotes: the text format, not a likeness of it.
backend: 'python'
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]  # here too
output: { name: "Y" data_type: TYPE_FP32 dims: -1 dims: 2 }
parameters { key: "property.license" value { string_value: "MIT" } }
parameters { key: "other" value { string_value: "no property" } }
model_operations { op_library_filename: "lib.so" }
optimization { priority: PRIORITY_MAX  input_pinned_memory { enable: false } }
"""
CODE = """
import numpy as np

CALLS = []


def predict(X):
    CALLS.append(1)
    turned = np.ascontiguousarray(X.T).T.astype(">f4")
    return {"Y": turned.astype(np.float32, order="K")}
"""
VIEW = """
import numpy as np


def predict(X):
    return {"Y": np.array([[X.flags.owndata, X.flags.writeable]], np.float32)}
"""
COUNTED = """
COUNT = [0]


def predict(X):
    COUNT[0] += 1
    return {"Y": X * 0 + COUNT[0]}
"""
BF16 = """
import numpy as np


def predict(X):
    return {"Y": X}
"""
BF16_CONFIG = """
backend: "python"
input { name: "X" data_type: TYPE_BF16 dims: [ -1 ] }
output { name: "Y" data_type: TYPE_BF16 dims: [ -1 ] }
"""
HALVES = "optimization { graph { level: -1 } }"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on which models are loaded by hand, with a cache whose answers grow old."""
    root = tmp_path_factory.mktemp("models")
    write(root, "told", CODE, TENSORS)
    write(root, "view", VIEW, TENSORS)
    write(root, "counted", COUNTED, TENSORS + "response_cache { enable: true }")
    write(root, "half", BF16, BF16_CONFIG)
    (root / "sums" / "1").mkdir(parents=True)
    onnx.save(sums(), str(root / "sums" / "1" / "model.onnx"))
    (root / "sums" / "config.pbtxt").write_text(HALVES)
    settings = options(
        [root],
        model_control_mode="explicit",
        load_model=("*",),
        cache_config=("local,size=100000,ttl=0.05",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def test_a_configuration_is_read_as_text_format(client: Any) -> None:
    """Comments, single quotes, a colon before a brace, one element or a list; and fields without
    effect come back as they were said.
    """
    told = client.get_model_config("told").config

    assert [list(t.dims) for t in (*told.input, *told.output)] == [[-1, 2], [-1, 2]]
    assert list(told.model_operations.op_library_filename) == ["lib.so"]
    assert told.optimization.priority == 1
    assert not told.optimization.input_pinned_memory.enable


def test_properties_of_metadata_are_what_the_owner_says(running: Running) -> None:
    """The OIP's field 6, as a map of texts; other parameters stay private."""
    with stub_of(running) as stub:
        answer = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="told"), timeout=20)
    told = ModelMetadataResponse.FromString(answer.SerializeToString())

    assert dict(told.properties) == {"license": "MIT"}


def test_raw_contents_are_row_major_and_little_endian(running: Running) -> None:
    """However the model's array lies in its memory."""
    array = np.arange(6, dtype="<f4").reshape(3, 2)
    request = service_pb2.ModelInferRequest(model_name="told")
    request.inputs.add(name="X", datatype="FP32", shape=[3, 2])
    request.raw_input_contents.append(array.tobytes())
    with stub_of(running) as stub:
        answer = stub.ModelInfer(request, timeout=20)

    assert answer.raw_output_contents[0] == array.tobytes()


def test_raw_inputs_are_the_messages_own_bytes(client: Any) -> None:
    """A model sees an array that owns no memory, and may not write there."""
    found = client.infer("view", tensors(X=np.zeros((1000, 2), np.float32))).as_numpy("Y")

    assert found.tolist() == [[0, 0]]


def test_stock_clients_read_bf16_as_float32(client: Any) -> None:
    """The upper halves, widened."""
    given = triton.InferInput("X", [3], "BF16")
    given._raw_content = (
        (np.array([1.5, -2, 3.25], "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    )

    found = client.infer("half", [given]).as_numpy("Y")

    # Where ml_dtypes is there, as the type that it has for them.
    assert found.astype(np.float32).tolist() == [1.5, -2, 3.25]


def test_memory_of_a_model_is_in_its_statistics(client: Any) -> None:
    """In Triton's words: where, which one, how much."""
    (found,) = client.get_inference_statistics("sums").model_stats

    assert [(m.type, m.id, m.byte_size > 0) for m in found.memory_usage] == [("CPU", 0, True)]


def refused(client: Any, model: str, **config: Any) -> str:
    """Why a model does not load with this configuration beside what it has."""
    with pytest.raises(triton.InferenceServerException) as error:
        client.load_model(model, config=json.dumps(config))
    text: str = error.value.message()
    return text


IO: dict[str, Any] = {
    "backend": "python",
    "max_batch_size": 2,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2], "allow_ragged_batch": True}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
    "sequence_batching": {},
}


def test_what_would_have_to_be_ignored_is_refused_at_load(client: Any) -> None:
    """By its name; what serves goes on serving."""
    plain = [{**IO["input"][0], "allow_ragged_batch": False}]
    cached = {**IO, "input": plain, "response_cache": {"enable": True}}
    lacking = {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [
        {"name": "openvino"}]}}}  # fmt: skip

    assert "asks for ragged batches of sequences" in refused(client, "told", **IO)
    assert "response_cache" in refused(client, "told", **cached)
    assert "openvino" in refused(client, "sums", **lacking)
    assert client.is_model_ready("told")


def test_a_graph_level_reaches_the_runtime(client: Any) -> None:
    """The model answers as it does without."""
    a = np.ones((1, 4), np.float32)
    found = client.infer("sums", tensors(a=a, b=a))

    assert found.as_numpy("sum").tolist() == [[2] * 4]
    assert client.get_model_config("sums").config.optimization.graph.level == -1


def test_answers_of_the_cache_grow_old(client: Any) -> None:
    """Once their time is over the model is asked again."""
    given = tensors(X=np.ones((1, 2), np.float32))
    first = client.infer("counted", given).as_numpy("Y")[0, 0]

    eventually(lambda: client.infer("counted", given).as_numpy("Y")[0, 0] > first, "it is old")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("health:a=b", "protocol 'health' can not be specified in multiple config groups"),
        ("nothing:a=b", "unknown restricted protocol 'nothing'"),
    ],
)
def test_a_start_with_groups_that_cannot_be_meant_ends(
    tmp_path: Path, value: str, text: str
) -> None:
    """With an exit code, before anything is opened."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "penstock",
            "serve",
            str(tmp_path),
            "--grpc-restricted-protocol=health:k=v",
            f"--grpc-restricted-protocol={value}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode != 0
    assert text in ended.stderr
