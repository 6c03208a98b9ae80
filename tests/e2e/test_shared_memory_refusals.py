"""Every refusal around shared memory: a request, its status, its text, through a real socket; and
that none of them leaves anything behind, or ends the server.
"""

# ruff: noqa: E501 - a row of the table is one line, however long the text of the error is

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import write
from tests.e2e.regions import Region, given, output, region, settled, tensor, until, write_models
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

DISABLED = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)
KEY = f"/penstock_refusals_{os.getpid()}"
LIMIT = 8
NO_ID = "[request id: <id_unknown>] "


TRITON = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "X") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", t.as_numpy())]) for t in tensors]
"""
ROW = """
input { name: "X" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
CONFIGS = {
    "triton": 'backend: "python"' + ROW,
    "chain": 'platform: "ensemble"'
    + ROW
    + """
        ensemble_scheduling { step { model_name: "triton" model_version: -1
          input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } } }""",
    "kept": 'backend: "python" response_cache { enable: true }' + ROW,
    "steps": 'backend: "python" max_batch_size: 2 sequence_batching {}' + ROW,
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Running]:
    """A server that lets clients share memory, on each transport."""
    root = write_models(tmp_path_factory.mktemp("refusing"))
    for name, config in CONFIGS.items():
        write(root, name, TRITON if "ensemble" not in config else "", config)
    settings = options(
        [root, MODELS],
        allow_client_shm=True,
        max_shm_regions=LIMIT,
        transport=request.param,
        cache_config=("local,size=100000",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    """A bare stub on it."""
    with grpc.insecure_channel(running.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def shared(client: Any) -> Iterator[Region]:
    """A region r of 64 bytes; when it is gone, nothing is left."""
    with region(client, 64, register=False) as made:
        client.register_system_shared_memory("r", made.key, 64)
        yield made
        client.unregister_system_shared_memory("r")


def infer(
    place: dict[str, Any] | None = None, wanted: dict[str, Any] | None = None, **more: Any
) -> Any:
    """A request for `held` with X in this place, or Y wanted there."""
    request = service_pb2.ModelInferRequest(model_name=more.get("model", "held"))
    request.inputs.add(
        name="X", datatype=more.get("datatype", "FP32"), shape=more.get("shape", [1, 4])
    )
    if place is None:
        request.raw_input_contents.append(bytes(16))
    _set(request.inputs[0], place or {})
    if wanted is not None:
        request.outputs.add(name="Y")
        _set(request.outputs[0], wanted)
    more.get("change", lambda request: None)(request)
    return request


def _set(one: Any, place: dict[str, Any]) -> None:
    for key, value in place.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(one.parameters[f"shared_memory_{key}"], field, value)


def at(region_: Any = "r", size: Any = 16, **more: Any) -> dict[str, Any]:
    """A place."""
    return {"region": region_, "byte_size": size, **more}


def contents(request: Any) -> None:
    """Contents beside the region."""
    request.inputs[0].contents.fp32_contents.extend([1.0] * 4)


def raw(request: Any) -> None:
    """A raw entry although there is no input for it."""
    request.raw_input_contents.append(bytes(16))


def classes(request: Any) -> None:
    """The output as classes as well."""
    request.outputs[0].parameters["classification"].int64_param = 1


INFER: list[tuple[str, Any, str, str]] = [
    ("unknown region", infer(at("x")), "NOT_FOUND", "Unable to find shared memory region: 'x'"),
    ("unknown region of an output", infer(wanted=at("x")), "NOT_FOUND", "Unable to find shared memory region: 'x'"),
    ("region before model", infer(at("x"), model="nobody"), "NOT_FOUND", "Unable to find shared memory region: 'x'"),
    ("unknown model", infer(at(), model="nobody"), "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("offset beyond", infer(at(offset=65)), "INVALID_ARGUMENT", "Invalid offset for shared memory region"),
    ("offset negative", infer(at(offset=-1)), "INVALID_ARGUMENT", "Invalid offset for shared memory region"),
    ("offset of an output", infer(wanted=at(offset=1 << 62)), "INVALID_ARGUMENT", "Invalid offset for shared memory region"),
    ("too large", infer(at(size=65)), "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
    ("too large with its offset", infer(at(offset=49)), "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
    ("overflowing", infer(at(size=(1 << 63) - 1, offset=32)), "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
    ("negative size", infer(at(size=-16)), "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
    ("output beyond", infer(wanted=at(size=65)), "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region"),
    ("no size", infer({"region": "r"}), "INVALID_ARGUMENT", "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for input tensor 'X'"),
    ("size without region", infer({"byte_size": 1}), "INVALID_ARGUMENT", "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for input tensor 'X'"),
    ("region is a number", infer(at(7)), "INVALID_ARGUMENT", "invalid value type for 'shared_memory_region' parameter, expected string_param."),
    ("size is text", infer(at(size="16")), "INVALID_ARGUMENT", "invalid value type for 'shared_memory_byte_size' parameter, expected int64_param."),
    ("offset is text", infer(wanted=at(offset="0")), "INVALID_ARGUMENT", "invalid value type for 'shared_memory_offset' parameter, expected int64_param."),
    ("contents too", infer(at(), change=contents), "INVALID_ARGUMENT", "unexpected 'content' provided when using shared memory for input tensor 'X' for model 'held'"),
    ("raw too", infer(at(), change=raw), "INVALID_ARGUMENT", "expected 0 raw_input_contents for model 'held', got 1"),
    ("classes too", infer(wanted=at(), change=classes), "INVALID_ARGUMENT", "output can't set both 'shared_memory_region' and 'classification'"),
    ("size is not the shape's", infer(at(size=20)), "INVALID_ARGUMENT", NO_ID + "input byte size mismatch for input 'X' for model 'held'. Expected 16, got 20"),
    ("wrong datatype", infer(at(), datatype="INT32"), "INVALID_ARGUMENT", NO_ID + "inference input 'X' data-type is 'INT32', but model 'held' expects 'FP32'"),
    ("output too small", infer(wanted=at(size=15)), "INTERNAL", "shared memory size specified with the request for output 'Y' (15 bytes) should be at least 16 bytes"),
    ("output without room", infer(wanted=at(size=0, offset=64)), "INTERNAL", "shared memory size specified with the request for output 'Y' (0 bytes) should be at least 16 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [row[1:] for row in INFER],
    ids=[row[0].replace(" ", "-") for row in INFER],
)
def test_a_request_is_refused_with_its_status_and_its_text(
    running: Running, stub: Any, shared: Region, request_: Any, status: str, text: str
) -> None:
    """Only the engine's errors bear a request id; the region is as it was, and free."""
    shared.put(np.full(64, 9, np.uint8))
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request_, timeout=20)

        assert refused.value.code().name == status
        assert refused.value.details().startswith(text)
    until(lambda: settled(running))
    assert shared.get(np.uint8, 64).tolist() == [9] * 64


def outcomes(running: Running, model: str) -> tuple[int, int]:
    """Requests that succeeded and that failed, as statistics have it."""
    found = running.server.core.model(model).statistics.snapshot()
    return found.success.count, found.fail.count


def whole(request: Any) -> None:
    """All responses of a decoupled model as one."""
    request.inputs[0].shape[:] = [1]
    request.raw_input_contents[0] = bytes(4)
    request.parameters["penstock_responses"].string_param = "concat"


def sequence(request: Any) -> None:
    """A sequence of one request."""
    request.parameters["sequence_id"].int64_param = 7
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("held", {}),
        ("triton", {"shape": [4]}),
        ("chain", {"shape": [4]}),
        ("kept", {"shape": [4]}),
        ("steps", {"change": sequence}),
        ("count", {"change": whole}),
    ],
)
def test_who_cannot_be_given_its_outputs_counts_as_failed(
    running: Running, stub: Any, shared: Region, model: str, more: dict[str, Any]
) -> None:
    """However it was executed, or found in the cache; and only that request."""
    assert shared.name
    before = outcomes(running, model)

    for size in (64, 11, 11):
        request = infer(wanted=at(size=size), model=model, **more)
        if size == 64:
            stub.ModelInfer(request, timeout=20)
            continue
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=20)
        assert refused.value.code().name == "INTERNAL"
        assert "should be at least" in refused.value.details()

    until(lambda: settled(running))
    assert outcomes(running, model) == (before[0] + 1, before[1] + 2)


def system(name: str = "n", key: str = KEY, size: int = 64, offset: int = 0) -> Any:
    """A registration of system memory."""
    return service_pb2.SystemSharedMemoryRegisterRequest(
        name=name, key=key, byte_size=size, offset=offset
    )


NO_KEY = "failed to register shared memory region 'n': its key is not one that a client may use"
REGISTER: list[tuple[str, Any, str, str]] = [
    ("twice", system("r"), "ALREADY_EXISTS", "shared memory region 'r' already in manager"),
    ("nothing there", system(key="/penstock_no_such_key"), "INTERNAL", "Unable to open shared memory region: '/penstock_no_such_key'"),
    ("no key", system(key=""), "INVALID_ARGUMENT", NO_KEY),
    ("slashes", system(key="///"), "INVALID_ARGUMENT", NO_KEY),
    ("up and away", system(key="/../../etc/passwd"), "INVALID_ARGUMENT", NO_KEY),
    ("a path", system(key="/etc/passwd"), "INVALID_ARGUMENT", NO_KEY),
    ("reserved", system(key="/triton_python_backend_shm_region_0"), "INVALID_ARGUMENT", NO_KEY),
    ("reserved without slash", system(key="triton_python_backend_shm_region_0"), "INVALID_ARGUMENT", NO_KEY),
    ("too large", system(size=1 << 20), "INVALID_ARGUMENT", "failed to register shared memory region 'n': invalid args"),
    ("overflowing", system(offset=32, size=(1 << 64) - 32), "INVALID_ARGUMENT", "failed to register shared memory region 'n': invalid args"),
    ("offset beyond", system(offset=(1 << 64) - 1, size=1), "INVALID_ARGUMENT", "failed to register shared memory region 'n': invalid args"),
    ("nothing of it", system(size=0), "INVALID_ARGUMENT", "failed to register shared memory region 'n': invalid args"),
    ("no name", system(""), "INVALID_ARGUMENT", "the name of a shared memory region has 0 characters"),
    ("long name", system("n" * 2000), "INVALID_ARGUMENT", "the name of a shared memory region has 2000 characters"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [row[1:] for row in REGISTER],
    ids=[row[0].replace(" ", "-") for row in REGISTER],
)
def test_a_registration_is_refused_with_its_status_and_its_text(
    running: Running, stub: Any, shared: Region, request_: Any, status: str, text: str
) -> None:
    """And nothing is registered by it."""
    file = Path("/dev/shm") / KEY[1:]
    file.write_bytes(bytes(64))
    try:
        with pytest.raises(grpc.RpcError) as refused:
            stub.SystemSharedMemoryRegister(request_, timeout=20)
    finally:
        file.unlink()

    assert refused.value.code().name == status
    assert text in refused.value.details()
    assert running.server.services.regions.open_regions == 1


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (service_pb2.SystemSharedMemoryStatusRequest(name="x"), "NOT_FOUND", "Unable to find system shared memory region: 'x'"),
        (service_pb2.CudaSharedMemoryStatusRequest(name="x"), "NOT_FOUND", "Unable to find cuda shared memory region: 'x'"),
        (service_pb2.CudaSharedMemoryStatusRequest(name="r"), "NOT_FOUND", "Unable to find cuda shared memory region: 'r'"),
        (service_pb2.CudaSharedMemoryRegisterRequest(name="g", raw_handle=bytes(64), byte_size=8), "UNIMPLEMENTED", "CUDA shared memory needs a CUDA device and CuPy"),
        (service_pb2.CudaSharedMemoryRegisterRequest(name="r", raw_handle=bytes(64), byte_size=8), "ALREADY_EXISTS", "shared memory region 'r' already in manager"),
    ],
)  # fmt: skip
def test_the_other_calls_are_refused_in_the_same_way(
    stub: Any, shared: Region, request_: Any, status: str, text: str
) -> None:
    """What is not there is not found; what the machine does not have is unimplemented."""
    call: Callable[..., Any] = getattr(stub, type(request_).__name__.removesuffix("Request"))

    with pytest.raises(grpc.RpcError) as refused:
        call(request_, timeout=20)

    assert refused.value.code().name == status
    assert text in refused.value.details()


def test_what_is_not_registered_is_unregistered_without_an_error(
    client: Any, shared: Region
) -> None:
    """Nor does CUDA's call forget system memory."""
    client.unregister_system_shared_memory("nobody")
    client.unregister_cuda_shared_memory("r")
    client.unregister_cuda_shared_memory()

    assert list(client.get_system_shared_memory_status("r").regions) == ["r"]


def test_an_object_that_is_truncated_is_refused_and_the_server_lives(
    client: Any, shared: Region
) -> None:
    """Read or written, by one request after the other; what it has left may be used."""
    shared.put(np.ones(16, np.float32))
    shared.truncate(16)
    texts = []

    for place, wanted in (((16, 16), (16, 0)), ((16, 0), (16, 48))):
        with pytest.raises(InferenceServerException) as refused:
            client.infer(
                "held",
                [tensor("X", [1, 4], "FP32", "r", *place)],
                outputs=[output("Y", "r", *wanted)],
            )
        texts.append(refused.value.message())
    client.infer("held", [tensor("X", [1, 4], "FP32", "r", 16)], outputs=[output("ROWS")])

    assert texts == ["Invalid offset + byte size for shared memory region: 'r'"] * 2
    assert (Path("/dev/shm") / shared.key[1:]).stat().st_size == 16


def test_bool_data_in_a_region_is_zero_or_one(client: Any, shared: Region) -> None:
    """As it is in a message."""
    shared.put(np.array([0, 1, 2], np.uint8))

    good = client.infer("flags", [tensor("B", [2], "BOOL", "r", 2)])
    with pytest.raises(InferenceServerException) as refused:
        client.infer("flags", [tensor("B", [3], "BOOL", "r", 3)])

    assert good.as_numpy("C").tolist() == [True, False]
    assert "has the byte 2 in BOOL data, expected 0 or 1" in refused.value.message()


def test_strings_in_a_region_are_as_long_as_they_say(client: Any, shared: Region) -> None:
    """A length past the end of the place is not followed."""
    shared.put(np.frombuffer(b"\xff\xff\xff\x7f" + b"x" * 60, np.uint8))

    with pytest.raises(InferenceServerException, match="expected 1 string elements"):
        client.infer("simple_identity", [tensor("INPUT0", [1, 1], "BYTES", "r", 64)])


def test_no_more_regions_are_registered_than_the_server_allows(
    running: Running, client: Any, shared: Region
) -> None:
    """The next one is refused, and there is room again once another is gone."""
    for number in range(LIMIT - 1):
        client.register_system_shared_memory(f"more{number}", shared.key, 64)

    with pytest.raises(InferenceServerException) as refused:
        client.register_system_shared_memory("one", shared.key, 64)
    client.unregister_system_shared_memory("more0")
    client.register_system_shared_memory("one", shared.key, 64)
    client.unregister_system_shared_memory()

    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert running.server.services.regions.open_regions == 0


def test_refusals_over_and_over_leave_no_descriptor(
    running: Running, stub: Any, shared: Region
) -> None:
    """Nor bytes of a budget, nor a region in use."""

    def refuse_all() -> None:
        for row in INFER:
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(row[1], timeout=20)
        for row in REGISTER:
            with pytest.raises(grpc.RpcError):
                stub.SystemSharedMemoryRegister(row[1], timeout=20)

    refuse_all()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        refuse_all()

    until(lambda: settled(running))
    assert len(os.listdir("/proc/self/fd")) <= before


# -- where clients may share nothing -------------------------------------------------------------


@pytest.fixture(scope="module", params=TRANSPORTS)
def closed(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A stub on a server as it is by default."""
    with (
        ServerThread(options([MODELS], transport=request.param)) as made,
        grpc.insecure_channel(made.target) as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_a_server_that_shares_nothing_says_so_to_every_use(closed: Any) -> None:
    """Registering, unregistering, inputs and outputs; how to enable it is in the text."""
    numbers = service_pb2.ModelInferRequest(model_name="simple")
    numbers.inputs.add(name="INPUT0", datatype="INT32", shape=[1, 16])
    _set(numbers.inputs[0], at(size=64))
    wanted = service_pb2.ModelInferRequest(model_name="simple")
    wanted.outputs.add(name="OUTPUT0")
    _set(wanted.outputs[0], at(size=64))
    calls: list[tuple[Any, Any]] = [
        (closed.SystemSharedMemoryRegister, system()),
        (closed.SystemSharedMemoryUnregister, service_pb2.SystemSharedMemoryUnregisterRequest()),
        (closed.CudaSharedMemoryRegister, service_pb2.CudaSharedMemoryRegisterRequest(name="n")),
        (
            closed.CudaSharedMemoryUnregister,
            service_pb2.CudaSharedMemoryUnregisterRequest(name="n"),
        ),
        (closed.ModelInfer, numbers),
        (closed.ModelInfer, wanted),
    ]

    for call, request in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=20)
        assert (refused.value.code().name, refused.value.details()) == ("UNIMPLEMENTED", DISABLED)


def test_a_server_that_shares_nothing_tells_that_there_is_nothing(closed: Any) -> None:
    """Looking is allowed, and the extension is not listed."""
    assert not closed.SystemSharedMemoryStatus(
        service_pb2.SystemSharedMemoryStatusRequest()
    ).regions
    assert not closed.CudaSharedMemoryStatus(service_pb2.CudaSharedMemoryStatusRequest()).regions
    for call, request in (
        (closed.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest(name="x")),
        (closed.CudaSharedMemoryStatus, service_pb2.CudaSharedMemoryStatusRequest(name="x")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert refused.value.code().name == "NOT_FOUND"
    metadata = closed.ServerMetadata(service_pb2.ServerMetadataRequest())
    assert not {"system_shared_memory", "cuda_shared_memory"} & set(metadata.extensions)


def test_a_server_that_shares_memory_answers_others_as_ever(client: Any) -> None:
    """Also what comes often."""
    results = [client.infer("held", [given("X", np.ones((1, 4), np.float32))]) for _ in range(5)]

    assert [r.as_numpy("Y").tolist() for r in results] == [[[2.0] * 4]] * 5
