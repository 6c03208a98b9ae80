"""Every refusal that clients match on: a request, its status, its text, through a real socket.

The requests are made with tritonclient's own messages, so that nothing of ours can bend them.
"""

# ruff: noqa: E501 - a row of the table is one line, however long the text of the error is

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.e2e.running import MODELS, Running, ServerThread, options
from tritonclient.grpc import service_pb2, service_pb2_grpc

ZEROS = bytes(64)
NO_ID = "[request id: <id_unknown>] "
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. "
    "If you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. "
    "See the model configuration docs for more info on max_batch_size."
)
RESERVED = "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with 'triton_' are allowed: "


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server with the acceptance models."""
    with ServerThread(options([MODELS])) as made:
        yield made


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    """A stub of tritonclient's on it."""
    with grpc.insecure_channel(running.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer(
    model: str = "simple",
    shapes: tuple[tuple[int, ...], ...] = ((1, 16), (1, 16)),
    names: tuple[str, ...] = ("INPUT0", "INPUT1"),
    datatypes: tuple[str, ...] = ("INT32", "INT32"),
    raws: tuple[bytes, ...] = (ZEROS, ZEROS),
    outputs: tuple[str, ...] = (),
    change: Callable[[Any], None] = lambda request: None,
    **fields: Any,
) -> Any:
    """A ModelInferRequest for `simple`, wrong in the way that the row says."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape in zip(names, datatypes, shapes, strict=False):
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    request.raw_input_contents.extend(raws)
    change(request)
    return request


def typed(field: str, values: list[Any], datatype: str = "INT32") -> Callable[[Any], None]:
    """Make INPUT0 carry typed contents of this kind, and drop the raw ones."""

    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        getattr(request.inputs[0].contents, field).extend(values)
        request.inputs[1].contents.int_contents.extend([0] * 16)

    return change


def parameter(key: str, **choice: Any) -> Callable[[Any], None]:
    """Set a parameter of the request."""

    def change(request: Any) -> None:
        for kind, value in choice.items():
            setattr(request.parameters[key], kind, value)

    return change


def mixed(request: Any) -> None:
    """Raw and typed contents at once."""
    request.inputs[0].contents.int_contents.extend([0] * 16)


def in_shared_memory(request: Any) -> None:
    """An input that says it lies in shared memory."""
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 64
    del request.raw_input_contents[0]


def classes(**choice: Any) -> Callable[[Any], None]:
    """Ask for OUTPUT0 as classes, so many by this kind of parameter."""

    def change(request: Any) -> None:
        output = request.outputs.add(name="OUTPUT0")
        for kind, value in choice.items():
            setattr(output.parameters["classification"], kind, value)

    return change


def classes_in_shared_memory(request: Any) -> None:
    """Ask for OUTPUT0 as classes in a region."""
    classes(int64_param=1)(request)
    request.outputs[0].parameters["shared_memory_region"].string_param = "region"
    request.outputs[0].parameters["shared_memory_byte_size"].int64_param = 64


def strings(*items: bytes, tail: bytes = b"") -> bytes:
    """The length-prefixed form of these strings."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items) + tail


def identity(raw: bytes, shape: tuple[int, ...] = (1, 2), **more: Any) -> Any:
    """A request for the identity of strings."""
    return infer("simple_identity", (shape,), ("INPUT0",), ("BYTES",), (raw,), **more)


STRINGS = "for inference input 'INPUT0' for model 'simple_identity'"
SIX = 16 * 4

TABLE: list[tuple[str, Any, str, str]] = [
    # Model and version
    ("unknown model", infer("m"), "NOT_FOUND", "Request for unknown model: 'm' is not found"),
    ("no model name", infer(""), "INVALID_ARGUMENT", "model_name"),
    ("unknown version", infer(model_version="99"), "NOT_FOUND", "Request for unknown model: 'simple' version 99 is not found"),
    ("version is text", infer(model_version="abc"), "INVALID_ARGUMENT", "failed to get model version from specified version string 'abc' (details: "),
    ("version is negative", infer(model_version="-1"), "INVALID_ARGUMENT", "version should be an integral value > 0"),
    ("version overflows", infer(model_version="9" * 20), "INVALID_ARGUMENT", "version should be an integral value > 0"),
    ("unary on decoupled", infer("repeat_int32"), "UNIMPLEMENTED", "ModelInfer RPC doesn't support models with decoupled transaction policy"),
    # Inputs and outputs
    ("missing input", infer(names=("INPUT0",), raws=(ZEROS,)), "INVALID_ARGUMENT", NO_ID + "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing required input(s) ['INPUT1']. Please provide all required input(s)."),
    ("id in the text", infer(names=("INPUT0",), raws=(ZEROS,), id="r7"), "INVALID_ARGUMENT", "[request id: r7] expected 2 inputs"),
    ("unknown input", infer(names=("INPUT0", "x")), "INVALID_ARGUMENT", NO_ID + "unexpected inference input 'x' for model 'simple'"),
    ("unknown output", infer(outputs=("x",)), "INVALID_ARGUMENT", NO_ID + "unexpected inference output 'x' for model 'simple'"),
    ("duplicate input", infer(names=("INPUT0", "INPUT0")), "INVALID_ARGUMENT", "input 'INPUT0' already exists in request"),
    ("duplicate output", infer(outputs=("OUTPUT0", "OUTPUT0")), "INVALID_ARGUMENT", "output 'OUTPUT0' already exists in request"),
    ("wrong datatype", infer(datatypes=("FP32", "INT32")), "INVALID_ARGUMENT", "inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"),
    ("no such datatype", infer(datatypes=("FP8", "INT32")), "INVALID_ARGUMENT", "FP8"),
    ("wrong shape", infer(shapes=((1, 15), (1, 16)), raws=(bytes(60), ZEROS)), "INVALID_ARGUMENT", NO_ID + "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,15]. " + NOTE),
    ("wildcard sent", infer(shapes=((-1, 16), (-1, 16))), "INVALID_ARGUMENT", "All input dimensions should be specified for input 'INPUT0' for model 'simple', got [-1,16]"),
    ("no batch dimension", infer(shapes=((), (1, 16)), raws=(bytes(4), ZEROS)), "INVALID_ARGUMENT", "input 'INPUT0' has no shape but model requires batch dimension for 'simple'"),
    ("batches differ", infer(shapes=((1, 16), (2, 16)), raws=(ZEROS, bytes(128))), "INVALID_ARGUMENT", "input 'INPUT1' batch size does not match other inputs for 'simple'"),
    ("batch too large", infer(shapes=((9, 16), (9, 16)), raws=(bytes(9 * SIX), bytes(9 * SIX))), "INVALID_ARGUMENT", "inference request batch-size must be <= 8 for 'simple'"),
    ("batch of nothing", infer(shapes=((0, 16), (0, 16)), raws=(b"", b"")), "INVALID_ARGUMENT", "inference request batch-size must be"),
    ("too many bytes", infer(raws=(bytes(128), ZEROS)), "INVALID_ARGUMENT", "input byte size mismatch for input 'INPUT0' for model 'simple'. Expected 64, got 128"),
    ("one byte short", infer(raws=(bytes(63), ZEROS)), "INVALID_ARGUMENT", "Expected 64, got 63"),
    ("overflowing shape", infer(shapes=((2**2, 2**60 + 2), (1, 16)), raws=(bytes(32), ZEROS)), "INVALID_ARGUMENT", "simple"),
    ("too few strings", identity(strings(b"a")), "INVALID_ARGUMENT", f"expected 2 string elements {STRINGS}, got 1"),
    ("too many strings", identity(strings(b"a", b"b", b"c")), "INVALID_ARGUMENT", f"unexpected number of string elements 3 {STRINGS}, expecting 2"),
    ("cut prefix", identity(strings(b"a", tail=b"\x01")), "INVALID_ARGUMENT", f"incomplete string length indicator {STRINGS}, expecting 4 bytes but only 1 bytes available. Please make sure the string length indicator is in one buffer."),
    ("length past the end", identity(b"\xff\xff\xff\xff"), "INVALID_ARGUMENT", STRINGS),
    # Data source
    ("raw and typed", infer(change=mixed), "INVALID_ARGUMENT", "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'"),
    ("typed of another kind", infer(change=typed("fp32_contents", [0.0] * 16)), "INVALID_ARGUMENT", "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple'"),
    ("no data", infer(raws=()), "INVALID_ARGUMENT", "unable to find data for input tensor 'INPUT0' for model 'simple' in request."),
    ("fewer raw than inputs", infer(raws=(ZEROS,)), "INVALID_ARGUMENT", "simple"),
    ("more raw than inputs", infer(raws=(ZEROS, ZEROS, ZEROS)), "INVALID_ARGUMENT", "simple"),
    ("narrow integer overflows", infer("simple_int8", datatypes=("INT8", "INT8"), change=typed("int_contents", [300] * 16, "INT8")), "INVALID_ARGUMENT", "300"),
    ("half precision typed", infer(change=typed("fp32_contents", [0.0] * 16, "FP16")), "INVALID_ARGUMENT", "FP16"),
    ("shared memory", infer(change=in_shared_memory), "UNIMPLEMENTED", "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."),
    # Parameters
    ("sequence_id is uint64", infer(change=parameter("sequence_id", uint64_param=1)), "INVALID_ARGUMENT", "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
    ("sequence_start is text", infer(change=parameter("sequence_start", string_param="x")), "INVALID_ARGUMENT", "invalid value type for 'sequence_start' parameter, expected bool_param."),
    ("sequence_end is text", infer(change=parameter("sequence_end", string_param="x")), "INVALID_ARGUMENT", "invalid value type for 'sequence_end' parameter, expected bool_param."),
    ("priority is text", infer(change=parameter("priority", string_param="x")), "INVALID_ARGUMENT", "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
    ("priority is negative", infer(change=parameter("priority", int64_param=-1)), "INVALID_ARGUMENT", "invalid value for 'priority', expected value >= 0."),
    ("timeout is text", infer(change=parameter("timeout", string_param="x")), "INVALID_ARGUMENT", "invalid value type for 'timeout' parameter, expected int64_param."),
    ("reserved key", infer(change=parameter("triton_secret", bool_param=True)), "INVALID_ARGUMENT", RESERVED),
    # Classification
    ("classification is text", infer(change=classes(string_param="3")), "INVALID_ARGUMENT", "invalid value type for 'classification' parameter, expected int64_param."),
    ("classification is uint64", infer(change=classes(uint64_param=3)), "INVALID_ARGUMENT", "invalid value type for 'classification' parameter, expected int64_param."),
    ("no classes", infer(change=classes(int64_param=0)), "INVALID_ARGUMENT", "invalid value for 'classification' parameter, expected value > 0, got 0."),
    ("fewer classes than none", infer(change=classes(int64_param=-1)), "INVALID_ARGUMENT", "invalid value for 'classification' parameter, expected value > 0, got -1."),
    ("classes of strings", identity(strings(b"a", b"b"), change=classes(int64_param=1)), "INVALID_ARGUMENT", "class result not available for output due to unsupported type 'BYTES'"),
    ("classes in shared memory", infer(change=classes_in_shared_memory), "INVALID_ARGUMENT", "output can't set both 'shared_memory_region' and 'classification'"),
    # Identity
    ("huge id", infer(id="x" * 2000), "INVALID_ARGUMENT", "id"),
    ("control characters in the id", infer(id="a\nb"), "INVALID_ARGUMENT", "id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [row[1:] for row in TABLE],
    ids=[row[0].replace(" ", "-") for row in TABLE],
)
def test_a_refusal_has_its_status_and_its_text(
    stub: Any, request_: Any, status: str, text: str
) -> None:
    """Status and text are those that clients branch on; the next request is answered."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request_, timeout=20)
    answered = stub.ModelInfer(infer(), timeout=20)

    assert refused.value.code().name == status
    assert text in refused.value.details()
    assert len(answered.raw_output_contents) == 2


def leaks(text: str) -> bool:
    """Whether a text for a client shows what only the log may."""
    return any(word in text for word in ("Traceback", "/", "0x", ".py", "Error("))


def test_no_refusal_shows_the_inside_of_the_server(stub: Any) -> None:
    """No path, pointer, class name or stack trace is in any text."""
    shown = []
    for name, request, _, _ in TABLE:
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=20)
        if leaks(refused.value.details()):
            shown.append((name, refused.value.details()))

    assert shown == []


@pytest.mark.parametrize(
    ("rpc", "request_", "status", "text"),
    [
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="m"), "NOT_FOUND", "Request for unknown model: 'm' is not found"),
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="simple", version="7"), "NOT_FOUND", "Request for unknown model: 'simple' version 7 is not found"),
        ("ModelConfig", service_pb2.ModelConfigRequest(name="m"), "NOT_FOUND", "Request for unknown model: 'm' is not found"),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest(name="m"), "NOT_FOUND", "Request for unknown model: 'm'"),
        ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="simple"), "UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled"),
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="simple"), "UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled"),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest(repository_name="r"), "UNIMPLEMENTED", "'repository_name' specification is not supported"),
        ("SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=1), "UNIMPLEMENTED", "Client shared memory is disabled"),
        ("CudaSharedMemoryRegister", service_pb2.CudaSharedMemoryRegisterRequest(name="r"), "UNIMPLEMENTED", "Client shared memory is disabled"),
        ("TraceSetting", service_pb2.TraceSettingRequest(model_name="m"), "NOT_FOUND", "Request for unknown model: 'm' is not found"),
        ("TraceSetting", service_pb2.TraceSettingRequest(settings={"trace_file": {"value": ["/tmp/x"]}}), "UNIMPLEMENTED", "trace file location can not be updated through network protocol"),
        ("LogSettings", service_pb2.LogSettingsRequest(), "UNIMPLEMENTED", "log settings are not available"),
    ],
)  # fmt: skip
def test_the_other_rpcs_refuse_in_the_same_way(
    stub: Any, rpc: str, request_: Any, status: str, text: str
) -> None:
    """Unknown models, modes and features have their statuses on every RPC."""
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, rpc)(request_, timeout=20)

    assert refused.value.code().name == status
    assert text in refused.value.details()


@pytest.fixture(scope="module")
def explicit_stub() -> Iterator[Any]:
    """A stub on a server in explicit mode."""
    with (
        ServerThread(options([MODELS], model_control_mode="explicit")) as made,
        grpc.insecure_channel(made.target) as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def load(name: str, repository: str = "", **parameters: Any) -> Any:
    """A load request with these parameters."""
    request = service_pb2.RepositoryModelLoadRequest(repository_name=repository, model_name=name)
    for key, value in parameters.items():
        kind = "bytes_param" if isinstance(value, bytes) else "string_param"
        setattr(request.parameters[key.replace("__", ":", 1)], kind, value)
    return request


CONFIG = '{"backend": "python"}'


def with_file(path: str) -> Any:
    """A load request that brings a file of this name."""
    request = load("simple", config=CONFIG)
    request.parameters[f"file:{path}"].bytes_param = b"x = 1"
    return request


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (load("nowhere"), "INTERNAL", "failed to load 'nowhere', failed to poll from model repository"),
        (load("simple", config="{"), "INTERNAL", "failed to load 'simple', failed to poll from model repository"),
        (load("simple", nonsense="x"), "INVALID_ARGUMENT", "unrecognized load parameter"),
        (load("simple", repository="r"), "UNIMPLEMENTED", "'repository_name' specification is not supported"),
        (load(""), "INVALID_ARGUMENT", "Model name cannot be empty. Please enter a valid name to deploy."),
        (load("  "), "INVALID_ARGUMENT", "Model name cannot be empty. Please enter a valid name to deploy."),
        (load("../simple"), "INVALID_ARGUMENT", "invalid model name '../simple', model name must not contain path traversal characters"),
        (with_file("../../x"), "INVALID_ARGUMENT", ""),
        (with_file("/etc/x"), "INVALID_ARGUMENT", ""),
        (with_file("1/a\x00b"), "INVALID_ARGUMENT", ""),
        (with_file("1/"), "INVALID_ARGUMENT", ""),
        (with_file("1/" + "x" * 256), "INTERNAL", "failed to poll from model repository"),
    ],
)  # fmt: skip
def test_a_load_that_cannot_be_is_refused(
    explicit_stub: Any, request_: Any, status: str, text: str
) -> None:
    """Names, parameters and files of a load are confined, and refused in Triton's words."""
    with pytest.raises(grpc.RpcError) as refused:
        explicit_stub.RepositoryModelLoad(request_, timeout=20)

    assert refused.value.code().name == status
    assert text in refused.value.details()
    assert str(MODELS) not in refused.value.details()


def test_kserves_numbering_of_a_load_is_understood(explicit_stub: Any) -> None:
    """With field 1 set and field 2 empty, field 1 is the model."""
    request = service_pb2.RepositoryModelLoadRequest(repository_name="simple_int8")

    explicit_stub.RepositoryModelLoad(request, timeout=20)

    ready = service_pb2.ModelReadyRequest(name="simple_int8")
    assert explicit_stub.ModelReady(ready, timeout=20).ready


@pytest.mark.parametrize(
    "message",
    [b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x7f", b"\x0a\x02\xff\xfe", b"\x2a\x00" * 2_000_000],
)
def test_bytes_that_are_no_request_are_an_invalid_argument(
    running: Running, message: bytes
) -> None:
    """Noise, cut fields, bad UTF-8 and bombs of empty messages are refused, and cost nothing."""
    with grpc.insecure_channel(running.target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            call(message, timeout=20)

    assert refused.value.code().name == "INVALID_ARGUMENT"
    assert not leaks(refused.value.details())


def test_answers_are_still_exact_after_all_of_this(stub: Any) -> None:
    """The server that refused all of the above answers as ever."""
    values = np.arange(16, dtype=np.int32).tobytes()

    response = stub.ModelInfer(infer(raws=(values, values)), timeout=20)

    doubled = np.frombuffer(response.raw_output_contents[0], np.int32)
    assert doubled.tolist() == [2 * i for i in range(16)]
