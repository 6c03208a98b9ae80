"""The repository by its RPCs: modes, states and their reasons, versions, names, and what a load may
say; with the flags that decide about these.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import page, stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tritonclient.grpc import service_pb2

from penstock_protos.inference import RepositoryModelLoadResponse, RepositoryModelUnloadResponse

ECHO = """
from penstock import FP32, model


@model
def echo(X: FP32[-1]) -> FP32[-1].named("Y"):
    return X{}
"""
BROKEN = "raise RuntimeError('the weights are gone')\n"
ONE = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Running]:
    """Explicit mode: one model is loaded, one fails, others nobody asked for."""
    write(root, "loaded", ECHO.format(""))
    write(root, "broken", BROKEN)
    write(root, "never", ECHO.format(""))
    digest = 'parameters { key: "SHA256:1/model.py" value: "' + "0" * 64 + '" }'
    agent = f'model_repository_agents {{ agents {{ name: "checksum" {digest} }} }}'
    write(root, "guarded", ECHO.format(""), agent)
    folder = write(root, "odd", ECHO.format(" + 3"), "backend: 'python'", version="3")
    for clutter in ("03", "0", "-1", "x", "configs", "warmup", "initial_state"):
        (folder / clutter).mkdir()
    (folder / "2").mkdir()
    (folder / "2" / "model.py").write_text(ECHO.format(" + 2"))
    settings = options(
        [root], model_control_mode="explicit", load_model=("loaded",), server_name="mine"
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def index(client: Any) -> dict[str, tuple[str, str, str]]:
    """Version, state and reason of each model."""
    found = client.get_model_repository_index().models
    return {model.name: (model.version, model.state, model.reason) for model in found}


def refused(client: Any, model: str, version: str = "") -> tuple[str, str]:
    """Status and text of an inference that is refused."""
    with pytest.raises(triton.InferenceServerException) as error:
        client.infer(model, tensors(X=ONE), version)
    return error.value.status(), error.value.message()


def test_only_what_was_named_is_loaded(client: Any) -> None:
    """The rest is listed without version and state, and is not what the server waits for."""
    assert index(client)["loaded"] == ("1", "READY", "")
    assert index(client)["never"] == ("", "", "")
    assert client.is_server_ready()


def test_the_index_may_be_of_ready_models_only(running: Running) -> None:
    """The field `ready` filters."""
    with stub_of(running) as stub:
        ready = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))

    assert {model.state for model in ready.models} == {"READY"}
    assert "never" not in {model.name for model in ready.models}


def test_a_load_that_fails_says_why(client: Any) -> None:
    """In Triton's words, with the reason in the index; inference finds no version; readiness of the
    model is OK and false, and that of the server false until nobody asks for the model any more.
    """
    with pytest.raises(triton.InferenceServerException) as error:
        client.load_model("broken")
    version, state, reason = index(client)["broken"]

    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    text = "load failed for model 'broken': version 1 is at UNAVAILABLE state: "
    assert error.value.message().startswith(text)
    assert "the weights are gone" in reason
    assert (version, state) == ("1", "UNAVAILABLE")
    assert not client.is_model_ready("broken")
    assert refused(client, "broken") == (
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'broken' has no available versions",
    )
    assert refused(client, "broken", "1") == (
        "StatusCode.UNAVAILABLE",
        "Request for unknown model: 'broken' version 1 is not at ready state",
    )
    assert not client.is_server_ready()
    client.unload_model("broken")
    assert client.is_server_ready()


def test_what_was_unloaded_is_not_ready_and_says_so(client: Any) -> None:
    """State UNAVAILABLE with the reason `unloaded`; the server stays ready."""
    client.load_model("never")
    assert client.is_model_ready("never")
    client.unload_model("never")
    eventually(lambda: index(client)["never"][1] == "UNAVAILABLE", "the unload is over")

    assert index(client)["never"] == ("1", "UNAVAILABLE", "unloaded")
    assert not client.is_model_ready("never")
    assert not client.is_model_ready("nowhere")
    assert client.is_server_ready()
    assert refused(client, "never")[0] == "StatusCode.NOT_FOUND"


def test_a_reload_that_fails_leaves_the_old_one_serving(
    running: Running, client: Any, root: Path
) -> None:
    """And the next good one takes its place, in metrics too."""
    file = root / "loaded" / "1" / "model.py"
    file.write_text(BROKEN)
    with pytest.raises(triton.InferenceServerException, match="load failed for model 'loaded'"):
        client.load_model("loaded")
    old = client.infer("loaded", tensors(X=ONE)).as_numpy("Y").tolist()
    file.write_text(ECHO.format(" * 5"))
    client.load_model("loaded")

    assert old == [1]
    assert client.infer("loaded", tensors(X=ONE)).as_numpy("Y").tolist() == [5]
    assert page(running).count('nv_inference_count{model="loaded"') == 1


def dry_run(running: Running, model: str, config: str = "") -> tuple[str, str, bool]:
    """Status and text of a load that is only tried, and whether the model serves."""
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    request.parameters["dry_run"].bool_param = True
    if config:
        request.parameters["config"].string_param = config
    with stub_of(running) as stub:
        try:
            answer = stub.RepositoryModelLoad(request, timeout=20)
        except grpc.RpcError as error:
            return error.code().name, error.details(), False
    told = RepositoryModelLoadResponse.FromString(answer.SerializeToString())
    return "OK", told.model_name, told.isLoaded


def test_a_dry_run_says_what_a_load_would_and_changes_nothing(
    running: Running, client: Any
) -> None:
    """Of a model that serves, one that nobody loaded, and others that could not serve."""
    before = index(client)

    assert dry_run(running, "loaded") == ("OK", "loaded", True)
    assert dry_run(running, "never") == ("OK", "never", False)
    assert dry_run(running, "odd", '{"backend": "python"}') == ("OK", "odd", False)
    for model, config, text in (
        ("broken", "", "the weights are gone"),
        ("guarded", "", "failed"),
        ("nowhere", "", "failed to poll from model repository"),
        ("never", '{"backend": "lisp"}', "lisp"),
        ("never", '{"max_batch_size": -1}', "must be >= 0, got -1"),
        ("never", '{"instance_group": [{"kind": "KIND_GPU", "gpus": [77]}]}', "GPU"),
    ):
        code, told, _ = dry_run(running, model, config)
        assert code in ("INVALID_ARGUMENT", "INTERNAL"), (model, told)
        assert text in told
    assert index(client) == before


def test_a_dry_run_of_an_ensemble_looks_at_what_it_is_made_of(
    running: Running, client: Any, root: Path
) -> None:
    """Also where that does not serve yet, and would be loaded with it."""
    config = {
        "platform": "ensemble",
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]}],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": "never",
                    "model_version": -1,
                    "input_map": {"X": "X"},
                    "output_map": {"Y": "Y"},
                }
            ]
        },
    }
    (root / "chain" / "1").mkdir(parents=True, exist_ok=True)
    (root / "chain" / "config.json").write_text(json.dumps(config))
    before = index(client)
    found = dry_run(running, "chain")
    config["ensemble_scheduling"]["step"][0]["input_map"] = {"Z": "X"}  # type: ignore[index]
    wrong = dry_run(running, "chain", json.dumps(config))

    assert found == ("OK", "chain", False)
    assert wrong[0] == "INVALID_ARGUMENT"
    assert "Z" in wrong[1]
    assert index(client) == before


def test_a_model_whose_files_are_others_does_not_serve(client: Any) -> None:
    """A repository agent holds them against their digests before they are loaded."""
    with pytest.raises(triton.InferenceServerException) as error:
        client.load_model("guarded")

    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "model.py" in error.value.message()
    client.unload_model("guarded")


def test_versions_are_positive_numbers_and_the_highest_serves(client: Any) -> None:
    """Leading zeros and other names are no versions."""
    client.load_model("odd")

    assert list(client.get_model_metadata("odd").versions) == ["3"]
    assert client.infer("odd", tensors(X=ONE)).as_numpy("Y").tolist() == [4]


def test_an_overridden_model_has_nothing_of_its_folder(client: Any) -> None:
    """Files that come with the load are the model; a plain load goes back to the folder."""
    config = json.dumps({"backend": "python", "name": "odd"})
    client.load_model("odd", config=config, files={"file:7/model.py": ECHO.format(" + 7").encode()})
    other = client.infer("odd", tensors(X=ONE)).get_response()
    client.load_model("odd")

    assert other.model_version == "7"
    assert client.infer("odd", tensors(X=ONE)).get_response().model_version == "3"


def test_files_without_a_configuration_are_refused(running: Running) -> None:
    """As in Triton, where nobody would know what they are."""
    request = service_pb2.RepositoryModelLoadRequest(model_name="odd")
    request.parameters["file:1/model.py"].bytes_param = b""

    with stub_of(running) as stub, pytest.raises(grpc.RpcError) as error:
        stub.RepositoryModelLoad(request, timeout=20)

    assert "config" in error.value.details()


def test_kserves_load_and_unload_are_answered_with_name_and_flag(running: Running) -> None:
    """Fields 1 and 2 of the answer; clients of Triton skip them."""
    with stub_of(running) as stub:
        load = stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(repository_name="odd")
        )
        unload = stub.RepositoryModelUnload(
            service_pb2.RepositoryModelUnloadRequest(repository_name="odd")
        )

    loaded = RepositoryModelLoadResponse.FromString(load.SerializeToString())
    unloaded = RepositoryModelUnloadResponse.FromString(unload.SerializeToString())
    assert (loaded.model_name, loaded.isLoaded) == ("odd", True)
    assert (unloaded.model_name, unloaded.isUnloaded) == ("odd", True)


def test_mlservers_service_is_the_same_one(running: Running) -> None:
    """Its repository service lists, loads and unloads under its own name."""
    prefix = "/inference.model_repository.ModelRepositoryService/Repository"
    with grpc.insecure_channel(running.target) as channel:

        def call(method: str, request: Any) -> Any:
            return channel.unary_unary(prefix + method)(request.SerializeToString(), timeout=20)

        call("ModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="odd"))
        ready = call("Index", service_pb2.RepositoryIndexRequest(ready=True))
        call("ModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="odd"))

    listed = service_pb2.RepositoryIndexResponse.FromString(ready)

    assert "odd" in {model.name for model in listed.models}


def test_a_model_that_loads_is_not_ready_yet(tmp_path: Path) -> None:
    """UNAVAILABLE with Triton's text and a hint; the server is live and not ready."""
    gate = tmp_path / "gate"
    waiting = f"import pathlib, time\ngate = pathlib.Path({str(gate)!r})\n"
    waiting += "while not gate.exists():\n    time.sleep(0.01)\n"
    write(tmp_path / "models", "slow", waiting + ECHO.format(""))
    settings = options([tmp_path / "models"], model_control_mode="explicit")
    with ServerThread(settings) as running, triton.InferenceServerClient(running.target) as client:
        call = client._client_stub.RepositoryModelLoad.future(
            service_pb2.RepositoryModelLoadRequest(model_name="slow")
        )
        eventually(lambda: index(client)["slow"][1] == "LOADING", "the load has begun")
        found, named = refused(client, "slow"), refused(client, "slow", "1")
        gate.touch()
        call.result(20)

        text = "Request for unknown model: 'slow'"
        assert found == ("StatusCode.UNAVAILABLE", f"{text} is not at ready state")
        assert named == ("StatusCode.UNAVAILABLE", f"{text} version 1 is not at ready state")
        assert client.is_model_ready("slow")


def test_a_server_that_polls_follows_its_folder(tmp_path: Path) -> None:
    """What appears is loaded, what goes is unloaded, and no caller decides."""
    write(tmp_path / "models", "first", ECHO.format(""))
    settings = options([tmp_path / "models"], model_control_mode="poll", repository_poll_secs=0.05)
    with ServerThread(settings) as running, triton.InferenceServerClient(running.target) as client:
        write(tmp_path / "staged", "second", ECHO.format(""))
        (tmp_path / "staged" / "second").rename(tmp_path / "models" / "second")
        eventually(lambda: client.is_model_ready("second"), "what appeared is loaded")
        (tmp_path / "models" / "first").rename(tmp_path / "staged" / "first")
        eventually(lambda: not client.is_model_ready("first"), "what went is unloaded")
        with pytest.raises(triton.InferenceServerException) as error:
            client.load_model("first")

        assert error.value.status() == "StatusCode.UNAVAILABLE"
        assert "explicit model load / unload is not allowed" in error.value.message()
