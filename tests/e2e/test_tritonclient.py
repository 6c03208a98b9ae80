"""Unmodified tritonclient, in this very process, does what its example programs do."""

import asyncio
import json
import queue
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

NUMBERS = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), dtype=np.int32)


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server with the models that the example programs name, on each transport."""
    settings = options([MODELS], server_name="triton", transport=request.param)
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def inputs(
    first: Any = NUMBERS, second: Any = ONES, datatype: str = "INT32", module: Any = triton
) -> list[Any]:
    """INPUT0 and INPUT1 of the add-and-subtract models."""
    made = []
    for name, array in (("INPUT0", first), ("INPUT1", second)):
        tensor = module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def outputs() -> list[Any]:
    """Both outputs, asked for by name."""
    return [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]


def check_sums(result: Any) -> None:
    """The answer is the exact sum and difference."""
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), NUMBERS + ONES)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), NUMBERS - ONES)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_a_simple_inference_is_exact_under_any_compression(client: Any, compression: Any) -> None:
    """simple_grpc_infer_client: by name, id echoed, with and without compression."""
    result = client.infer(
        "simple",
        inputs(),
        outputs=outputs(),
        request_id="r-1",
        client_timeout=10.0,
        compression_algorithm=compression,
    )

    check_sums(result)
    assert result.get_response().id == "r-1"
    assert result.get_response().model_version == "1"


def test_an_unknown_output_is_not_in_the_answer(client: Any) -> None:
    """as_numpy gives None for what was not asked for."""
    asked = [triton.InferRequestedOutput("OUTPUT1")]

    result = client.infer("simple", inputs(), outputs=asked)

    assert result.as_numpy("OUTPUT0") is None
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), NUMBERS - ONES)


def test_asynchronous_calls_are_answered_each(client: Any) -> None:
    """simple_grpc_async_infer_client: callbacks for many calls at once."""
    answers: queue.Queue[Any] = queue.Queue()

    def note(result: Any, error: Any) -> None:
        answers.put(error or result)

    for _ in range(200):
        client.async_infer("simple", inputs(), note, outputs=outputs())

    for _ in range(200):
        check_sums(answers.get(timeout=20))


def test_the_asyncio_client_is_answered(running: Running) -> None:
    """simple_grpc_aio_infer_client: the same through asyncio."""

    async def main() -> Any:
        async with triton_aio.InferenceServerClient(running.target) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("simple")
            results = await asyncio.gather(
                *(client.infer("simple", inputs(module=triton_aio)) for _ in range(32))
            )
            for result in results:
                check_sums(result)
            return len(results)

    assert asyncio.run(main()) == 32


def test_the_asyncio_client_streams(running: Running) -> None:
    """simple_grpc_aio_sequence_stream's way of streaming, on a decoupled model."""

    async def main() -> list[int]:
        async with triton_aio.InferenceServerClient(running.target) as client:

            async def requests() -> Any:
                yield {"model_name": "repeat_int32", "inputs": repeat_inputs([4, 2, 0])}

            got = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                got.append(int(result.as_numpy("OUT")[0]))
            return got

    assert asyncio.run(main()) == [4, 2, 0]


def test_strings_go_and_come(client: Any) -> None:
    """simple_grpc_string_infer_client: numbers as text; identities of arbitrary bytes."""
    first = np.array([[str(i).encode() for i in range(16)]], dtype=object)
    second = np.array([[b"1"] * 16], dtype=object)

    result = client.infer("simple_string", inputs(first, second, "BYTES"))
    awkward = np.array([[b"", b"a\x00b", "déjà".encode(), b"\xff\xfe"]], dtype=object)
    tensor = triton.InferInput("INPUT0", [1, 4], "BYTES")
    tensor.set_data_from_numpy(awkward)
    same = client.infer("simple_identity", [tensor])

    sums = [int(item) for item in result.as_numpy("OUTPUT0")[0]]
    assert sums == list(range(1, 17))
    np.testing.assert_array_equal(same.as_numpy("OUTPUT0"), awkward)


def test_custom_channel_arguments_are_taken(running: Running) -> None:
    """simple_grpc_custom_args_client: a client that limits its own messages."""
    arguments = [("grpc.lb_policy_name", "pick_first"), ("grpc.max_send_message_length", 1_000_000)]

    with triton.InferenceServerClient(running.target, channel_args=arguments) as client:
        check_sums(client.infer("simple", inputs()))


def test_keepalive_pings_are_taken(running: Running) -> None:
    """simple_grpc_keepalive_client: a client with keepalive options of its own."""
    keepalive = triton.KeepAliveOptions(
        keepalive_time_ms=2**31 - 1,
        keepalive_timeout_ms=20_000,
        keepalive_permit_without_calls=False,
        http2_max_pings_without_data=2,
    )

    with triton.InferenceServerClient(running.target, keepalive_options=keepalive) as client:
        check_sums(client.infer("simple", inputs()))


def test_health_and_metadata_are_as_the_example_expects(client: Any) -> None:
    """simple_grpc_health_metadata: live, ready, the name, the model, and the unknown model."""
    assert client.is_server_live(headers={"test": "1", "dummy": "2"})
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert not client.is_model_ready("wrong_model_name")

    assert client.get_server_metadata().name == "triton"
    metadata = client.get_model_metadata("simple")
    assert metadata.name == "simple"
    assert list(metadata.versions) == ["1"]
    assert [list(tensor.shape) for tensor in metadata.inputs] == [[-1, 16], [-1, 16]]
    with pytest.raises(InferenceServerException) as unknown:
        client.get_model_metadata("wrong_model_name")
    assert "Request for unknown model" in unknown.value.message()


def test_the_configuration_is_what_the_file_says(client: Any) -> None:
    """get_model_config parses with the client's own messages, and as JSON."""
    config = client.get_model_config("simple").config
    as_json = client.get_model_config("simple", as_json=True)["config"]

    assert config.max_batch_size == 8
    assert [tensor.name for tensor in config.input] == ["INPUT0", "INPUT1"]
    assert config.instance_group[0].count == 1
    assert config.version_policy.latest.num_versions == 1
    assert as_json["max_batch_size"] == 8


def test_statistics_count_what_was_done(client: Any) -> None:
    """get_inference_statistics: rows and executions since load."""
    before = client.get_inference_statistics("simple").model_stats[0]

    for _ in range(3):
        client.infer("simple", inputs())
    after = client.get_inference_statistics("simple").model_stats[0]

    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_stats.queue.ns > before.inference_stats.queue.ns
    assert {batch.batch_size for batch in after.batch_stats} == {1}
    assert after.last_inference > 10**12


def explicit(model: str, datatype: str, **contents: Any) -> Any:
    """A request whose tensors are typed contents rather than raw bytes."""
    request = service_pb2.ModelInferRequest(model_name=model, id="typed")
    for name in ("INPUT0", "INPUT1"):
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
        for field, values in contents.items():
            getattr(tensor.contents, field).extend(values[name])
    return request


@pytest.mark.parametrize(
    ("model", "datatype", "dtype"),
    [("simple", "INT32", np.int32), ("simple_int8", "INT8", np.int8)],
)
def test_explicit_integer_contents_are_read(
    running: Running, model: str, datatype: str, dtype: Any
) -> None:
    """grpc_explicit_int_content_client and its int8 sibling: raw out for typed in."""
    values = {"INPUT0": list(range(16)), "INPUT1": [1] * 16}
    request = explicit(model, datatype, int_contents=values)

    with grpc.insecure_channel(running.target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request)

    sums = np.frombuffer(response.raw_output_contents[0], dtype)
    assert sums.tolist() == list(range(1, 17))
    assert response.outputs[0].shape == [1, 16]


def test_explicit_byte_contents_are_read(running: Running) -> None:
    """grpc_explicit_byte_content_client: strings as typed contents."""
    values = {"INPUT0": [str(i).encode() for i in range(16)], "INPUT1": [b"1"] * 16}
    request = explicit("simple_string", "BYTES", bytes_contents=values)

    with grpc.insecure_channel(running.target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request)

    result = triton.InferResult(response)
    assert [int(item) for item in result.as_numpy("OUTPUT1")[0]] == [i - 1 for i in range(16)]


def repeat_inputs(values: list[int], module: Any = triton) -> list[Any]:
    """The inputs of repeat_int32: what to send back, without delays."""
    arrays = {
        "IN": np.array(values, np.int32),
        "DELAY": np.zeros(len(values), np.uint32),
        "WAIT": np.zeros(1, np.uint32),
    }
    made = []
    for name, array in arrays.items():
        datatype = "INT32" if name == "IN" else "UINT32"
        tensor = module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


@pytest.mark.parametrize("values", [[], [7], list(range(100))])
def test_a_decoupled_model_streams_each_of_its_responses(client: Any, values: list[int]) -> None:
    """simple_grpc_custom_repeat: as many responses as values, then the empty final one if asked."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(
        "repeat_int32",
        repeat_inputs(values),
        request_id="s",
        enable_empty_final_response=True,
    )

    got = []
    while True:
        result, error = answers.get(timeout=20)
        assert error is None
        response = result.get_response()
        assert response.id == "s"
        if response.parameters["triton_final_response"].bool_param:
            break
        got.append(int(result.as_numpy("OUT")[0]))
    client.stop_stream()

    assert got == values


def test_an_ordinary_model_answers_on_a_stream_in_order(client: Any) -> None:
    """Responses of non-decoupled models leave in the order of their requests."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(50):
        client.async_stream_infer("simple", inputs(NUMBERS + number), request_id=str(number))

    ids = []
    for _ in range(50):
        result, error = answers.get(timeout=20)
        assert error is None
        ids.append(result.get_response().id)
    client.stop_stream()

    assert ids == [str(number) for number in range(50)]


def test_an_error_on_a_stream_is_told_in_band_and_the_stream_goes_on(client: Any) -> None:
    """A request that fails gets its message; the next one is answered."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("unknown", inputs(), request_id="bad")
    client.async_stream_infer("simple", inputs(), request_id="good")

    _, error = answers.get(timeout=20)
    result, _ = answers.get(timeout=20)
    client.stop_stream()

    assert "Request for unknown model: 'unknown' is not found" in error.message()
    check_sums(result)


def test_a_unary_call_of_a_decoupled_model_is_unimplemented(client: Any) -> None:
    """The text is the one that clients know."""
    with pytest.raises(InferenceServerException) as refused:
        client.infer("repeat_int32", repeat_inputs([1]))

    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    text = "ModelInfer RPC doesn't support models with decoupled transaction policy"
    assert text in refused.value.message()


@pytest.fixture(params=TRANSPORTS)
def explicit_server(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server that loads nothing by itself."""
    settings = options([MODELS], model_control_mode="explicit", transport=request.param)
    with ServerThread(settings) as made:
        yield made


def test_models_are_loaded_and_unloaded_on_request(explicit_server: Running) -> None:
    """simple_grpc_model_control: load, ready, unload, not ready, and the text for an unknown
    one.
    """
    with triton.InferenceServerClient(explicit_server.target) as client:
        assert not client.is_model_ready("simple")
        client.load_model("simple")
        assert client.is_model_ready("simple")
        check_sums(client.infer("simple", inputs()))
        client.unload_model("simple")
        assert not client.is_model_ready("simple")

        with pytest.raises(InferenceServerException) as unknown:
            client.load_model("wrong_model_name")
        index = settled_index(client)

    text = "failed to load 'wrong_model_name', failed to poll from model repository"
    assert text in unknown.value.message()
    assert (index["simple"].state, index["simple"].reason) == ("UNAVAILABLE", "unloaded")
    assert index["simple_int8"].state == ""


def settled_index(client: Any) -> dict[str, Any]:
    """The index once nothing is being drained any more."""
    until = time.monotonic() + 20
    while True:
        index = {entry.name: entry for entry in client.get_model_repository_index().models}
        if all(entry.state != "UNLOADING" for entry in index.values()):
            return index
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_model_can_be_loaded_with_another_configuration_and_other_files(
    explicit_server: Running,
) -> None:
    """Model control with `config` and `file:` overrides; a plain load goes back to the folder."""
    config = {"backend": "python", "max_batch_size": 4}
    tensors = [{"name": f"INPUT{i}", "data_type": "TYPE_INT32", "dims": [16]} for i in (0, 1)]
    config["input"] = tensors
    config["output"] = [{"name": "OUTPUT0", "data_type": "TYPE_INT32", "dims": [16]}]
    code = b"def predict(INPUT0, INPUT1):\n    return {'OUTPUT0': INPUT0 * INPUT1}\n"
    text = json.dumps(config)

    with triton.InferenceServerClient(explicit_server.target) as client:
        client.load_model("simple", config=text, files={"file:3/model.py": code})
        product = client.infer("simple", inputs())
        versions = client.get_model_metadata("simple").versions
        client.load_model("simple")
        check_sums(client.infer("simple", inputs()))

    np.testing.assert_array_equal(product.as_numpy("OUTPUT0"), NUMBERS * ONES)
    assert product.get_response().model_version == "3"
    assert list(versions) == ["3"]


@pytest.mark.parametrize("bad", ["{", '{"max_batch_size": "many"}', '{"nonsense": 1}'])
def test_a_broken_override_is_refused_and_nothing_changes(
    explicit_server: Running, bad: str
) -> None:
    """The old version goes on serving; the text is Triton's."""
    with triton.InferenceServerClient(explicit_server.target) as client:
        client.load_model("simple")
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("simple", config=bad)
        check_sums(client.infer("simple", inputs()))

    text = "failed to load 'simple', failed to poll from model repository"
    assert text in refused.value.message()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_unix_socket_serves_as_a_port_does(transport: str, tmp_path: Path) -> None:
    """The same service on unix:path."""
    path = f"unix:{tmp_path}/penstock.sock"
    settings = options([MODELS], grpc_address=(path,), transport=transport)

    with ServerThread(settings), triton.InferenceServerClient(path) as client:
        check_sums(client.infer("simple", inputs()))


def test_ten_million_numbers_pass_without_a_message_limit(client: Any) -> None:
    """A 40 MB request is no special case."""
    rows = 8
    wide = np.array([[b"x" * 600_000] * 8] * rows, dtype=object)
    tensor = triton.InferInput("INPUT0", [rows, 8], "BYTES")
    tensor.set_data_from_numpy(wide)

    result = client.infer("simple_identity", [tensor])

    assert (result.as_numpy("OUTPUT0") == wide).all()


def test_a_stream_with_the_grpc_error_flag_ends_with_a_status(running: Running) -> None:
    """With `triton_grpc_error: true` the first error is the status of the call."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(running.target) as client:
        put = partial(_put, answers)
        client.start_stream(put, headers={"triton_grpc_error": "true"})
        client.async_stream_infer("unknown", inputs())
        error = answers.get(timeout=20)

    assert error.status() == "StatusCode.NOT_FOUND"


def _put(answers: "queue.Queue[Any]", result: Any, error: Any) -> None:
    answers.put(error or result)
