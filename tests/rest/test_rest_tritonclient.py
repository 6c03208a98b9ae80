"""Unmodified tritonclient over HTTP, blocking and with asyncio, does what its programs do."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.e2e.running import MODELS, Running, ServerThread
from tests.rest.serving import NUMBERS, ONES, address, http_options, inputs
from tests.server_process import write_model
from tritonclient.utils import InferenceServerException

from penstock.logs import configure_logs

HALVES = "def predict(IN):\n    return {'OUT': IN}\n"
CONFIG = """
backend: "python"
input {{ name: "IN" data_type: TYPE_{0} dims: [ -1 ] }}
output {{ name: "OUT" data_type: TYPE_{0} dims: [ -1 ] }}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server in explicit mode with the acceptance models, and logs that callers may see to."""
    more = tmp_path_factory.mktemp("models")
    for name in ("FP16", "BF16"):
        folder = write_model(more, f"echo_{name}", HALVES)
        (folder / "config.pbtxt").write_text(CONFIG.format(name))
    settings = http_options(
        [MODELS, more],
        server_name="triton",
        model_control_mode="explicit",
        load_model=("*",),
        log_file=str(tmp_path_factory.mktemp("log") / "log"),
    )
    logs = configure_logs(settings)
    try:
        with ServerThread(settings, logs) as made:
            yield made
    finally:
        logs.close()


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(address(running)) as made:
        yield made


def check_sums(result: Any) -> None:
    """The answer is the exact sum and difference."""
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), NUMBERS + ONES)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), NUMBERS - ONES)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [(), (True, True), (False, False), (True, False)])
def test_an_inference_is_exact_in_every_form(
    client: Any, binary_in: bool, binary_out: tuple[bool, ...]
) -> None:
    """simple_http_infer_client: data as JSON or binary, in and out, or both in one answer."""
    outputs = [
        triton.InferRequestedOutput(f"OUTPUT{index}", binary_data=binary)
        for index, binary in enumerate(binary_out)
    ]

    result = client.infer("simple", inputs(binary=binary_in), outputs=outputs, request_id="r-1")

    check_sums(result)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1"
    binary = ["parameters" in output for output in result.get_response()["outputs"]]
    assert binary == list(binary_out or (True, True))


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("got", [None, "gzip", "deflate"])
def test_an_inference_is_exact_under_any_compression(client: Any, sent: Any, got: Any) -> None:
    """Either way, in each encoding; the answer is large enough to be worth it."""
    array = np.array([[b"penstock"] * 500], dtype=np.object_)
    tensor = triton.InferInput("INPUT0", [1, 500], "BYTES")
    tensor.set_data_from_numpy(array)

    result = client.infer(
        "simple_identity",
        [tensor],
        request_compression_algorithm=sent,
        response_compression_algorithm=got,
    )

    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings_are_the_same_on_both_ways(client: Any, binary: bool) -> None:
    """simple_http_string_infer_client."""
    array = np.array([["größe", "", "a b"]], dtype=np.object_)
    tensor = triton.InferInput("INPUT0", [1, 3], "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    output = triton.InferRequestedOutput("OUTPUT0", binary_data=binary)

    found = client.infer("simple_identity", [tensor], outputs=[output]).as_numpy("OUTPUT0")

    texts = [item.decode() if isinstance(item, bytes) else item for item in found[0]]
    assert texts == array[0].tolist()


def test_half_precision_travels_as_binary_data(client: Any) -> None:
    """FP16 and BF16, which JSON has no form for."""
    array = np.array([0.5, -2.0], np.float16)
    tensor = triton.InferInput("IN", [2], "FP16")
    tensor.set_data_from_numpy(array)

    found = client.infer("echo_FP16", [tensor]).as_numpy("OUT")

    np.testing.assert_array_equal(found, array)
    output = triton.InferRequestedOutput("OUT", binary_data=False)
    with pytest.raises(InferenceServerException, match="FP16 data via JSON is not supported"):
        client.infer("echo_FP16", [tensor], outputs=[output])


@pytest.mark.parametrize("binary", [True, False])
def test_an_output_may_come_as_its_best_classes(client: Any, binary: bool) -> None:
    """The classification extension, in either form."""
    output = triton.InferRequestedOutput("OUTPUT0", binary_data=binary, class_count=2)

    found = client.infer("simple", inputs(), outputs=[output]).as_numpy("OUTPUT0")

    texts = [item.decode() if isinstance(item, bytes) else item for item in found[0]]
    assert texts == ["16:15", "15:14"]


def test_sequence_priority_timeout_and_custom_parameters_are_taken(client: Any) -> None:
    """Whatever the client may say beside its tensors."""
    result = client.infer(
        "simple",
        inputs(),
        sequence_id=(1 << 63) + 1,
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=5_000_000,
        parameters={"mine": "x", "number": 7},
    )

    check_sums(result)


def test_calls_in_the_background_are_answered_each(running: Running) -> None:
    """simple_http_async_infer_client: greenlets."""
    with triton.InferenceServerClient(address(running), concurrency=4) as client:
        asked = [client.async_infer("simple", inputs()) for _ in range(40)]
        for request in asked:
            check_sums(request.get_result())


def test_health_and_metadata_are_told(client: Any) -> None:
    """simple_http_health_metadata."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "9")
    assert not client.is_model_ready("nowhere")
    assert client.get_server_metadata()["name"] == "triton"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("simple", "1")
    assert metadata["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    config = client.get_model_config("simple")
    assert (config["name"], config["max_batch_size"]) == ("simple", 8)
    assert config["input"][0]["data_type"] == "TYPE_INT32"
    assert config["input"][0]["dims"] == [16]


def test_statistics_are_numbers(client: Any) -> None:
    """Of one model, of one version, of all."""
    client.infer("simple", inputs())

    (one,) = client.get_inference_statistics("simple", "1")["model_stats"]
    every = client.get_inference_statistics()["model_stats"]

    assert one["inference_count"] >= 1
    assert one["inference_stats"]["success"]["count"] >= 1
    assert {entry["name"] for entry in every} >= {"simple", "simple_int8"}


def test_models_are_loaded_and_unloaded(client: Any) -> None:
    """simple_http_model_control: index, load with another configuration and files, unload."""
    client.unload_model("simple_int8")
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    ready = client.is_model_ready("simple_int8")
    client.load_model("simple_int8")
    config = {"backend": "python", "max_batch_size": 0}
    config |= {
        "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}],
    }
    client.load_model("echo", config=json.dumps(config), files={"file:1/model.py": HALVES.encode()})

    assert index["simple_int8"]["state"] in ("UNLOADING", "UNAVAILABLE")
    assert not ready
    assert client.is_model_ready("simple_int8")
    assert client.get_model_metadata("echo")["inputs"][0]["name"] == "IN"
    client.unload_model("echo", unload_dependents=True)


def test_log_settings_are_read_and_changed(client: Any) -> None:
    """Those that were changed are in the answer, and come back."""
    before = client.get_log_settings()
    changed = client.update_log_settings({"log_verbose_level": 1, "log_info": False})
    client.update_log_settings({"log_verbose_level": 0, "log_info": True})

    assert (changed["log_verbose_level"], changed["log_info"]) == (1, False)
    assert client.get_log_settings() == before
    assert before["log_file"].endswith("log")
    with pytest.raises(InferenceServerException, match="log file location can not be updated"):
        client.update_log_settings({"log_file": "/x"})


def test_the_asyncio_client_is_answered(running: Running) -> None:
    """simple_http_aio_infer_client: calls of every kind through asyncio."""

    async def main() -> int:
        async with triton_aio.InferenceServerClient(address(running)) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("simple")
            assert (await client.get_model_config("simple"))["max_batch_size"] == 8
            calls = (
                client.infer(
                    "simple",
                    inputs(module=triton_aio, binary=index % 2 == 0),
                    request_compression_algorithm=("gzip", "deflate", None)[index % 3],
                    response_compression_algorithm=("gzip", None)[index % 2],
                )
                for index in range(24)
            )
            results = await asyncio.gather(*calls)
            for result in results:
                check_sums(result)
            with pytest.raises(InferenceServerException, match="unknown model: 'm' is not found"):
                await client.infer("m", inputs(module=triton_aio))
            return len(results)

    assert asyncio.run(main()) == 24
