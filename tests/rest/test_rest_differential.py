"""The same request over gRPC and over HTTP: the same tensors, or the same refusal."""

# ruff: noqa: E501 - a row of the table is one line, however long the text of the error is

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from tests.e2e.running import MODELS, Running, ServerThread
from tests.rest.serving import http_options, url
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.status import HTTP_CODES
from penstock_runtime.errors import Status

ZEROS = bytes(64)
SIX = 64


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with ServerThread(http_options([MODELS])) as made:
        yield made


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    with grpc.insecure_channel(running.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def web(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(running, ""), timeout=20) as made:
        yield made


def infer(
    model: str = "simple",
    shapes: tuple[tuple[int, ...], ...] = ((1, 16), (1, 16)),
    names: tuple[str, ...] = ("INPUT0", "INPUT1"),
    datatypes: tuple[str, ...] = ("INT32", "INT32"),
    raws: tuple[bytes, ...] = (ZEROS, ZEROS),
    outputs: tuple[str, ...] = (),
    classes: Any = None,
    **fields: Any,
) -> Any:
    """A request as gRPC has it."""
    parameters = fields.pop("parameters", {})
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape in zip(names, datatypes, shapes, strict=False):
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        output = request.outputs.add(name=name)
        if classes is not None:
            set_parameter(output.parameters["classification"], classes)
    for key, value in parameters.items():
        set_parameter(request.parameters[key], value)
    request.raw_input_contents.extend(raws)
    return request


def set_parameter(parameter: Any, value: Any) -> None:
    """The choice that the type of the value stands for."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(parameter, kinds[type(value)], value)


def get_parameters(found: Any) -> dict[str, Any]:
    """Parameters as JSON has them."""
    return {
        key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in found.items()
    }


def over_http(web: httpx.Client, request: Any) -> httpx.Response:
    """The same request over HTTP, its tensors as binary data."""
    raws, binary = list(request.raw_input_contents), b""
    entries = []
    for tensor in request.inputs:
        entry: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)
        }  # fmt: skip
        entry["parameters"] = get_parameters(tensor.parameters)
        if "shared_memory_region" not in tensor.parameters and raws:
            entry["parameters"]["binary_data_size"] = len(raws[0])
            binary += raws.pop(0)
        entries.append(entry)
    outputs = [
        {"name": o.name, "parameters": get_parameters(o.parameters)} for o in request.outputs
    ]
    document: dict[str, Any] = {"inputs": entries, "outputs": outputs, "id": request.id}
    document["parameters"] = {**get_parameters(request.parameters), "binary_data_output": True}
    head = json.dumps(document).encode()
    version = f"/versions/{request.model_version}" if request.model_version else ""
    return web.post(
        f"/v2/models/{request.model_name}{version}/infer",
        content=head + binary,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )


def strings(*items: bytes, tail: bytes = b"") -> bytes:
    """The length-prefixed form of these strings."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items) + tail


def identity(raw: bytes, shape: tuple[int, ...] = (1, 2), **more: Any) -> Any:
    """A request for the identity of strings."""
    return infer("simple_identity", (shape,), ("INPUT0",), ("BYTES",), (raw,), **more)


def in_shared_memory() -> Any:
    """The first input lies in a region."""
    request = infer(raws=(ZEROS,))
    set_parameter(request.inputs[0].parameters["shared_memory_region"], "region")
    set_parameter(request.inputs[0].parameters["shared_memory_byte_size"], 64)
    return request


REFUSED = {
    "shared memory": in_shared_memory(),
    "unknown model": infer("m"),
    "unknown version": infer(model_version="99"),
    "version is text": infer(model_version="abc"),
    "version is negative": infer(model_version="-1"),
    "missing input": infer(names=("INPUT0",), raws=(ZEROS,)),
    "id in the text": infer(names=("INPUT0",), raws=(ZEROS,), id="r7"),
    "unknown input": infer(names=("INPUT0", "x")),
    "unknown output": infer(outputs=("x",)),
    "duplicate input": infer(names=("INPUT0", "INPUT0")),
    "duplicate output": infer(outputs=("OUTPUT0", "OUTPUT0")),
    "wrong datatype": infer(datatypes=("FP32", "INT32")),
    "no such datatype": infer(datatypes=("FP8", "INT32")),
    "wrong shape": infer(shapes=((1, 15), (1, 16)), raws=(bytes(60), ZEROS)),
    "wildcard sent": infer(shapes=((-1, 16), (-1, 16))),
    "no batch dimension": infer(shapes=((), (1, 16)), raws=(bytes(4), ZEROS)),
    "batches differ": infer(shapes=((1, 16), (2, 16)), raws=(ZEROS, bytes(128))),
    "batch too large": infer(shapes=((9, 16), (9, 16)), raws=(bytes(9 * SIX), bytes(9 * SIX))),
    "batch of nothing": infer(shapes=((0, 16), (0, 16)), raws=(b"", b"")),
    "too many bytes": infer(raws=(bytes(128), ZEROS)),
    "one byte short": infer(raws=(bytes(63), ZEROS)),
    "overflowing shape": infer(shapes=((2**2, 2**60 + 2), (1, 16)), raws=(bytes(32), ZEROS)),
    "too few strings": identity(strings(b"a")),
    "too many strings": identity(strings(b"a", b"b", b"c")),
    "cut prefix": identity(strings(b"a", tail=b"\x01")),
    "length past the end": identity(b"\xff\xff\xff\xff"),
    "no data": infer(raws=()),
    "fewer raw than inputs": infer(raws=(ZEROS,)),
    "sequence_id is a float": infer(parameters={"sequence_id": 0.5}),
    "sequence_start is text": infer(parameters={"sequence_start": "x"}),
    "sequence_end is text": infer(parameters={"sequence_end": "x"}),
    "priority is text": infer(parameters={"priority": "x"}),
    "priority is negative": infer(parameters={"priority": -1}),
    "timeout is text": infer(parameters={"timeout": "x"}),
    "reserved key": infer(parameters={"triton_secret": True}),
    "classification is text": infer(outputs=("OUTPUT0",), classes="3"),
    "no classes": infer(outputs=("OUTPUT0",), classes=0),
    "classes of strings": identity(strings(b"a", b"b"), outputs=("OUTPUT0",), classes=1),
    "huge id": infer(id="x" * 2000),
    "control characters in the id": infer(id="a\nb"),
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=[n.replace(" ", "-") for n in REFUSED])
def test_a_refusal_is_the_same_over_both(stub: Any, web: httpx.Client, request_: Any) -> None:
    """The same words, and of the same status the number that HTTP has for it."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request_, timeout=20)

    answer = over_http(web, request_)

    assert answer.json() == {"error": refused.value.details()}
    assert answer.status_code == HTTP_CODES[Status(refused.value.code().name)]


@pytest.mark.parametrize("count", [0, 15, 17])
def test_a_wrong_number_of_values_is_refused_in_the_same_words(
    stub: Any, web: httpx.Client, count: int
) -> None:
    """As typed contents over gRPC, as JSON over HTTP."""
    request = infer(raws=())
    request.inputs[0].contents.int_contents.extend([1] * count)
    request.inputs[1].contents.int_contents.extend([1] * 16)
    entries = [
        {"name": name, "datatype": "INT32", "shape": [1, 16], "data": [1] * number}
        for name, number in (("INPUT0", count), ("INPUT1", 16))
    ]
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)

    answer = web.post("/v2/models/simple/infer", json={"inputs": entries})

    if count:
        assert answer.json() == {"error": refused.value.details()}
    # Typed contents cannot say that they are empty.
    assert answer.status_code == 400


ANSWERED = {
    "plain": infer(raws=(bytes(range(64)), ZEROS)),
    "an id and a version": infer(id="r", model_version="1"),
    "one output": infer(outputs=("OUTPUT1",)),
    "outputs the other way round": infer(outputs=("OUTPUT1", "OUTPUT0")),
    "a batch": infer(shapes=((4, 16), (4, 16)), raws=(bytes(range(256)), bytes(256))),
    "classes": infer(outputs=("OUTPUT0",), classes=3),
    "bytes": infer("simple_int8", datatypes=("INT8", "INT8"), raws=(b"a" * 16, b"b" * 16)),
    "strings": identity(strings(b"\x00\xff", b"")),
    "parameters": infer(parameters={"a": True, "b": 1, "c": "x", "d": 0.5, "priority": 1}),
}


@pytest.mark.parametrize("request_", ANSWERED.values(), ids=[n.replace(" ", "-") for n in ANSWERED])
def test_an_answer_is_the_same_over_both(stub: Any, web: httpx.Client, request_: Any) -> None:
    """Names, order, datatypes, shapes and every bit."""
    expected = stub.ModelInfer(request_, timeout=20)

    answer = over_http(web, request_)

    length = int(answer.headers["Inference-Header-Content-Length"])
    document = json.loads(answer.content[:length])
    assert (document["model_name"], document.get("id", "")) == (expected.model_name, expected.id)
    assert document["model_version"] == expected.model_version
    described = [(o.name, o.datatype, list(o.shape)) for o in expected.outputs]
    assert [(o["name"], o["datatype"], o["shape"]) for o in document["outputs"]] == described
    assert answer.content[length:] == b"".join(expected.raw_output_contents)
    sizes = [o["parameters"]["binary_data_size"] for o in document["outputs"]]
    assert sizes == [len(raw) for raw in expected.raw_output_contents]


CONTROL = [
    ("ModelMetadata", service_pb2.ModelMetadataRequest(name="m"), "GET", "/v2/models/m"),
    ("ModelMetadata", service_pb2.ModelMetadataRequest(name="simple", version="7"), "GET", "/v2/models/simple/versions/7"),
    ("ModelConfig", service_pb2.ModelConfigRequest(name="m"), "GET", "/v2/models/m/config"),
    ("ModelStatistics", service_pb2.ModelStatisticsRequest(name="m"), "GET", "/v2/models/m/stats"),
    ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="simple"), "POST", "/v2/repository/models/simple/load"),
    ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="simple"), "POST", "/v2/repository/models/simple/unload"),
    ("RepositoryIndex", service_pb2.RepositoryIndexRequest(repository_name="r"), "POST", "/v2/repository/r/index"),
    ("SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(name="r"), "POST", "/v2/systemsharedmemory/region/r/unregister"),
    ("CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest(), "POST", "/v2/cudasharedmemory/unregister"),
    ("LogSettings", service_pb2.LogSettingsRequest(), "GET", "/v2/logging"),
]  # fmt: skip


@pytest.mark.parametrize(("rpc", "request_", "method", "path"), CONTROL)
def test_the_other_calls_refuse_in_the_same_way(
    stub: Any, web: httpx.Client, rpc: str, request_: Any, method: str, path: str
) -> None:
    """Unknown models, modes and features have the same words over both."""
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, rpc)(request_, timeout=20)

    answer = web.request(method, path)

    assert answer.json() == {"error": refused.value.details()}
    assert answer.status_code == HTTP_CODES[Status(refused.value.code().name)]


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/systemsharedmemory/status"])
def test_a_seam_answers_as_it_does_over_grpc(stub: Any, web: httpx.Client, path: str) -> None:
    """Whatever tracing and shared memory answer over gRPC, they answer over HTTP."""
    rpc, request_ = {
        "/v2/trace/setting": ("TraceSetting", service_pb2.TraceSettingRequest()),
        "/v2/systemsharedmemory/status": (
            "SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(),
        ),
    }[path]  # fmt: skip
    try:
        getattr(stub, rpc)(request_, timeout=20)
        expected = Status.UNKNOWN, ""
    except grpc.RpcError as error:
        expected = Status(error.code().name), error.details()

    answer = web.get(path)

    if expected[1]:
        assert answer.json() == {"error": expected[1]}
        assert answer.status_code == HTTP_CODES[expected[0]]
    else:
        assert answer.status_code == 200


def test_every_status_has_a_number_in_http() -> None:
    """The table is complete, and its numbers are those of failures."""
    assert set(HTTP_CODES) == set(Status)
    assert all(400 <= code < 600 for code in HTTP_CODES.values())
