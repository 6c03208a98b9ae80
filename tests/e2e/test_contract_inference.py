"""Rules of ModelInfer and of the datatypes that no other file of these holds to: what goes in comes
out, from the version that was meant, in the form that was asked for.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import TYPES, stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2

VALUES: dict[str, Any] = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, np.inf], np.float16),
    "FP32": np.array([1.5, np.nan], np.float32),
    "FP64": np.array([1e-300, -np.inf], np.float64),
    "BYTES": np.array([b"a\x00b", b"\xff"], object),
}
FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
CONFIG = """
backend: "python"
input {{ name: "X" data_type: TYPE_{type} dims: [ -1 ] }}
output {{ name: "Y" data_type: TYPE_{type} dims: [ -1 ] }}
"""
SAME = "def predict(X):\n    return {'Y': X}\n"
SHAPES = """
from penstock import FP32, model


@model
def shapes(X: FP32[-1]) -> tuple[FP32[-1].named("A"), FP32[-1].named("B"), FP32[-1].named("C")]:
    return X, X[:0], X + 1
"""
LARGE = """
import numpy as np


def predict(X):
    return {"Y": np.broadcast_to(np.zeros(1, np.float32), (2**29 + 1,))}
"""
RESHAPED = """
backend: "python"
max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ 2, -1, 1 ] } }
output { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] reshape { shape: [ 1, 3 ] } }
"""
TOLD = """
import numpy as np


def predict(X):
    return {"Y": np.array([[X.shape[1:]]] * len(X), np.float32).reshape(len(X), 1, 3)}
"""
SPOKEN = """
import json

import numpy as np

from penstock import BYTES, Context, model


@model
def spoken(X: BYTES[1], context: Context) -> BYTES[1].named("Y"):
    context.response_parameters = {"truth": True, "count": 7, "text": "t", "share": 0.5}
    return np.array([json.dumps(dict(context.parameters), sort_keys=True)], object)
"""


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """An identity for each datatype, and models for one rule each."""
    root = tmp_path_factory.mktemp("models")
    for name in (*VALUES, "BF16"):
        kind = "STRING" if name == "BYTES" else name
        write(root, f"same_{name.lower()}", SAME, CONFIG.format(type=kind))
    write(root, "shapes", SHAPES)
    write(root, "large", LARGE, CONFIG.format(type="FP32"))
    write(root, "reshaped", TOLD, RESHAPED)
    write(root, "spoken", SPOKEN)
    for name, policy in (("newest", ""), ("all", "version_policy { all { } }")):
        for version in ("1", "2", "10"):
            code = SAME.replace("X}", f"X * 0 + {version}}}")
            write(root, name, code, version=version)
        (root / name / "config.pbtxt").write_text(CONFIG.format(type="FP32") + policy)
    policy = "version_policy { specific { versions: [ 1, 2, 7 ] } }"
    for version in ("1", "2", "10"):
        write(root, "some", SAME.replace("X}", f"X * 0 + {version}}}"), version=version)
    (root / "some" / "config.pbtxt").write_text(CONFIG.format(type="FP32") + policy)
    with ServerThread(options([root], transport=request.param)) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


@pytest.fixture
def stub(running: Running) -> Iterator[Any]:
    with stub_of(running) as made:
        yield made


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_comes_back_to_the_bit(client: Any, datatype: str) -> None:
    """The ends of its range, as raw data; the first request of its kind and one like it."""
    array = VALUES[datatype]

    for _ in range(2):
        result = client.infer(f"same_{datatype.lower()}", tensors(X=array))
        np.testing.assert_array_equal(result.as_numpy("Y"), array)
        assert result.get_output("Y").datatype == TYPES[array.dtype] == datatype


def test_bf16_keeps_its_halves(stub: Any) -> None:
    """Two bytes an element, whatever they say."""
    halves = np.array([0x3FC0, 0x7FC1, 0x8000], np.uint16).tobytes()
    request = service_pb2.ModelInferRequest(model_name="same_bf16", raw_input_contents=[halves])
    request.inputs.add(name="X", datatype="BF16", shape=[3])

    response = stub.ModelInfer(request, timeout=20)

    assert list(response.raw_output_contents) == [halves]


@pytest.mark.parametrize("asked", ["parameter", "metadata"])
@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_come_back_typed_for_who_asks(stub: Any, datatype: str, asked: str) -> None:
    """Each datatype in its own field; by a parameter of the request or by the call's metadata."""
    values = VALUES[datatype].tolist()
    request = service_pb2.ModelInferRequest(model_name=f"same_{datatype.lower()}")
    tensor = request.inputs.add(name="X", datatype=datatype, shape=[2])
    getattr(tensor.contents, FIELDS[datatype]).extend(values)
    if asked == "parameter":
        request.parameters["penstock_typed_output"].bool_param = True
    metadata = [("penstock-typed-output", "true")] if asked == "metadata" else []

    response = stub.ModelInfer(request, metadata=metadata, timeout=20)

    found = getattr(response.outputs[0].contents, FIELDS[datatype])
    np.testing.assert_array_equal(list(found), values)
    assert not response.raw_output_contents


def test_typed_contents_come_back_raw_by_default(stub: Any) -> None:
    """Stock clients read nothing else."""
    request = service_pb2.ModelInferRequest(model_name="same_int32")
    tensor = request.inputs.add(name="X", datatype="INT32", shape=[2])
    tensor.contents.int_contents.extend([1, 2])

    response = stub.ModelInfer(request, timeout=20)

    assert list(response.raw_output_contents) == [np.array([1, 2], np.int32).tobytes()]


def test_fields_that_nobody_knows_are_ignored(running: Running) -> None:
    """Of the request and of its tensors, as other dialects have them."""
    tensor = b"\x0a\x01X\x12\x04FP32\x1a\x01\x01" + b"\xf2\x06\x03new"
    request = b"\x0a\x09same_fp32" + b"\x2a" + bytes([len(tensor)]) + tensor
    request += b"\x3a\x04" + np.float32(2).tobytes() + b"\xfa\x3e\x04more"

    with grpc.insecure_channel(running.target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = service_pb2.ModelInferResponse.FromString(call(request, timeout=20))

    assert list(answer.raw_output_contents) == [np.float32(2).tobytes()]


@pytest.mark.parametrize(
    ("model", "version", "ran"),
    [
        ("newest", "", "10"),
        ("newest", "10", "10"),
        ("all", "", "10"),
        ("all", "1", "1"),
        ("all", "2", "2"),
        ("some", "", "2"),
        ("some", "1", "1"),
    ],
)
def test_the_version_that_was_meant_answers(
    client: Any, model: str, version: str, ran: str
) -> None:
    """The highest that is ready unless one is named; the answer says which, and of what model."""
    result = client.infer(model, tensors(X=np.zeros(1, np.float32)), version)

    response = result.get_response()
    assert (response.model_name, response.model_version) == (model, ran)
    assert result.as_numpy("Y").tolist() == [float(ran)]


@pytest.mark.parametrize(("model", "version"), [("newest", "1"), ("some", "10"), ("some", "7")])
def test_a_version_that_the_policy_leaves_out_is_not_there(
    client: Any, model: str, version: str
) -> None:
    """Although its folder is, or because there is none."""
    with pytest.raises(triton.InferenceServerException) as refused:
        client.infer(model, tensors(X=np.zeros(1, np.float32)), version)

    assert refused.value.status() == "StatusCode.NOT_FOUND"
    assert f"unknown model: '{model}' version {version} is not found" in refused.value.message()


def test_outputs_have_the_order_that_was_asked_for(client: Any) -> None:
    """Or that of the configuration; one without elements has its entry too, which is empty."""
    array = np.array([1, 2], np.float32)

    every = client.infer("shapes", tensors(X=array)).get_response()
    asked = [triton.InferRequestedOutput(name) for name in ("C", "B")]
    some = client.infer("shapes", tensors(X=array), outputs=asked).get_response()

    assert [output.name for output in every.outputs] == ["A", "B", "C"]
    assert [len(raw) for raw in every.raw_output_contents] == [8, 0, 8]
    assert [(o.name, list(o.shape)) for o in some.outputs] == [("C", [2]), ("B", [0])]
    assert [len(raw) for raw in some.raw_output_contents] == [8, 0]


def test_an_answer_that_no_message_holds_is_refused(client: Any) -> None:
    """With its size, and without being copied; the server goes on."""
    with pytest.raises(triton.InferenceServerException) as refused:
        client.infer("large", tensors(X=np.zeros(1, np.float32)))

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refused.value.message().startswith("Response has byte size")
    assert "exceeds gRPC's byte size limit" in refused.value.message()


def test_a_model_sees_its_reshape_and_a_client_does_not(client: Any) -> None:
    """A wildcard takes the value of the request's."""
    result = client.infer("reshaped", tensors(X=np.zeros((2, 2, 5), np.float32)))

    assert result.as_numpy("Y").tolist() == [[2, 5, 1], [2, 5, 1]]


def test_custom_parameters_reach_the_model_and_its_own_the_client(stub: Any) -> None:
    """Of every kind, each as what it is."""
    request = service_pb2.ModelInferRequest(model_name="spoken")
    request.inputs.add(name="X", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(bytes(4))
    request.parameters["yes"].bool_param = True
    request.parameters["number"].int64_param = -3
    request.parameters["word"].string_param = "w"
    request.parameters["real"].double_param = 0.25

    response = stub.ModelInfer(request, timeout=20)

    seen = response.raw_output_contents[0][4:].decode()
    assert seen == '{"number": -3, "real": 0.25, "word": "w", "yes": true}'
    spoken = {
        key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()
    }
    assert spoken == {
        "truth": "bool_param",
        "count": "int64_param",
        "text": "string_param",
        "share": "double_param",
    }


def test_a_custom_parameter_without_sign_is_refused(stub: Any) -> None:
    """Those of scheduling may have one; a model is told what Triton tells it."""
    request = service_pb2.ModelInferRequest(model_name="spoken")
    request.inputs.add(name="X", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(bytes(4))
    request.parameters["large"].uint64_param = 1

    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "invalid value type for 'large' parameter" in refused.value.details()
