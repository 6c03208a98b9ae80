"""Ensembles of a whole server: tritonclient through a real socket, unary and over streams."""

import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.ensemble_models import (
    CODES,
    ENSEMBLES,
    ensemble,
    step,
    tensor,
    write_code,
    write_ensemble,
    write_repository,
)
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException

from penstock.cli.lint import lint


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that the server serves."""
    made = tmp_path_factory.mktemp("ensembles")
    write_repository(made)
    return made


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Running]:
    """A server in explicit mode with a response cache."""
    settings = options(
        [root],
        model_control_mode="explicit",
        load_model=("*",),
        cache_config=("local,size=1000000",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[triton.InferenceServerClient]:
    """A client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def floats(*values: Any, name: str = "IN") -> Any:
    """An input of numbers."""
    array = np.array(values, np.float32)
    made = triton.InferInput(name, list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


def statistics(running: Running, client: Any, model: str) -> dict[str, int]:
    """What was counted of a model, once all is."""
    until(lambda: not running.server.core.inflight)
    (found,) = client.get_inference_statistics(model).model_stats
    told = found.inference_stats
    return {
        "success": told.success.count,
        "fail": told.fail.count,
        "queue_ns": told.queue.ns,
        "infer_ns": told.compute_infer.ns,
        "rows": found.inference_count,
        "executions": found.execution_count,
        "hits": told.cache_hit.count,
    }


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def streamed(
    client: Any, model: str, *inputs: Any, **more: Any
) -> tuple[list[Any], InferenceServerException | None]:
    """The responses to one request over a stream, up to its empty last one, or its error."""
    news: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: news.put((result, error)))
    client.async_stream_infer(model, list(inputs), enable_empty_final_response=True, **more)
    got: list[Any] = []
    try:
        while True:
            result, error = news.get(timeout=10)
            if error is not None:
                return got, error
            response = result.get_response()
            got.append(result)
            if response.parameters["triton_final_response"].bool_param:
                return got, None
    finally:
        client.stop_stream()


def test_an_ensemble_answers_as_its_models_do(client: Any) -> None:
    """With all outputs or some, under the caller's id, as a batch or a row, nested or not."""
    rows = floats([1, 2], [3, 4])
    wanted = [triton.InferRequestedOutput("TWICE")]

    whole = client.infer("triple", [rows], request_id="r1")
    part = client.infer("triple", [rows], outputs=wanted)
    nested = client.infer("nine_times", [rows])

    assert whole.as_numpy("OUT").tolist() == [[3, 6], [9, 12]]
    assert whole.as_numpy("TWICE").tolist() == [[2, 4], [6, 8]]
    response = whole.get_response()
    assert (response.model_name, response.model_version, response.id) == ("triple", "1", "r1")
    assert part.as_numpy("TWICE").tolist() == [[2, 4], [6, 8]]
    assert part.as_numpy("OUT") is None
    assert nested.as_numpy("OUT").tolist() == [[9, 18], [27, 36]]


def test_many_callers_share_the_batches_of_the_steps(running: Running, client: Any) -> None:
    """Every answer is its caller's; each model counts what it did, the ensemble its requests."""
    before = {name: statistics(running, client, name) for name in ("triple", "double", "add")}

    def call(number: int) -> list[list[float]]:
        with triton.InferenceServerClient(running.target) as own:
            return [
                own.infer("triple", [floats([number, i])]).as_numpy("OUT").tolist()[0]
                for i in range(15)
            ]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(8)))

    assert answers == [[[3 * n, 3 * i] for i in range(15)] for n in range(8)]
    after = {name: statistics(running, client, name) for name in before}
    gained = {n: {k: after[n][k] - before[n][k] for k in after[n]} for n in before}
    assert [gained[name]["success"] for name in gained] == [120, 120, 120]
    assert [gained[name]["rows"] for name in gained] == [120, 120, 120]
    assert gained["triple"]["executions"] == 120
    assert gained["triple"]["queue_ns"] == 0
    assert gained["triple"]["infer_ns"] > 0
    assert sum(gained[name]["fail"] for name in gained) == 0


def test_an_optional_input_may_be_left_out(client: Any) -> None:
    """And so is the step's."""
    one = client.infer("optional", [floats([1])])
    both = client.infer("optional", [floats([1]), floats([5], name="MORE")])

    assert one.as_numpy("OUT").tolist() == [[1]]
    assert both.as_numpy("OUT").tolist() == [[6]]


def test_strings_go_from_step_to_step_and_classes_have_the_models_labels(client: Any) -> None:
    """Labels are those of the model that makes the output, as the ensemble names none."""
    text = triton.InferInput("IN", [2], "BYTES")
    text.set_data_from_numpy(np.array([b"ab", b"c"], object))

    plain = client.infer("spoken", [text])
    classes = client.infer(
        "spoken", [text], outputs=[triton.InferRequestedOutput("SCORES", class_count=2)]
    )

    assert plain.as_numpy("OUT").tolist() == [b"AB", b"C"]
    assert classes.as_numpy("SCORES").tolist() == [b"5.000000:1:five", b"2.000000:0:long"]


def test_every_response_of_decoupled_steps_comes_in_order(running: Running, client: Any) -> None:
    """Through a chain of two, joined with an input from before, held to two at a time."""
    got, error = streamed(client, "streamed", floats(3, 0, 2), floats(100, name="BASE"))

    assert error is None
    values = [result.as_numpy("OUT").tolist() for result in got[:-1]]
    assert values == [[130], [131], [132], [120], [121]]
    assert not got[-1].get_response().outputs
    until(lambda: not running.server.core.inflight)
    (found,) = client.get_inference_statistics("streamed").model_stats
    assert sorted(found.response_stats) == ["0", "1", "2", "3", "4", "5"]
    assert found.response_stats["4"].success.count == 1
    assert found.response_stats["5"].empty_response.count == 1
    (steps,) = client.get_inference_statistics("repeat").model_stats
    assert steps.inference_stats.success.count == 3


def test_a_decoupled_ensemble_says_so_and_takes_no_unary_call(client: Any) -> None:
    """Though its configuration leaves it out."""
    config = client.get_model_config("streamed", as_json=True)["config"]

    assert config["model_transaction_policy"] == {"decoupled": True}
    with pytest.raises(InferenceServerException, match="decoupled transaction policy"):
        client.infer("streamed", [floats(1), floats(1, name="BASE")])


def test_a_thousand_responses_pass_a_narrow_way(client: Any) -> None:
    """The producer is held back and nothing is lost."""
    got, error = streamed(client, "streamed", floats(1000), floats(0, name="BASE"))

    assert error is None
    values = [float(result.as_numpy("OUT")[0]) for result in got[:-1]]
    assert values == [10_000 + n for n in range(1000)]


def test_an_error_of_a_step_is_told_with_its_name(running: Running, client: Any) -> None:
    """On a unary call and in a stream, and counted once in each of the two."""
    before = [statistics(running, client, name)["fail"] for name in ("careful", "picky")]

    with pytest.raises(InferenceServerException) as refused:
        client.infer("careful", [floats([-1])], request_id="r9")
    _, error = streamed(client, "careful", floats([-1]))

    text = "in ensemble 'careful', step 0 'picky': "
    assert text in str(refused.value)
    assert "[request id: r9]" in str(refused.value)
    assert error is not None
    assert text in str(error)
    after = [statistics(running, client, name)["fail"] for name in ("careful", "picky")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]


def test_a_request_that_does_not_fit_is_refused_in_the_ensembles_name(client: Any) -> None:
    """By its own configuration, before any step."""
    with pytest.raises(InferenceServerException, match="unexpected inference input 'X' for model"):
        client.infer("triple", [floats([1], name="X")])
    with pytest.raises(InferenceServerException, match="batch-size must be <= 8 for 'triple'"):
        client.infer("triple", [floats(*([n] for n in range(9)))])


def test_metadata_and_configuration_are_an_ensembles(client: Any) -> None:
    """With Triton's platform, and no instances."""
    metadata = client.get_model_metadata("triple", as_json=True)
    config = client.get_model_config("triple", as_json=True)["config"]

    assert metadata["platform"] == "ensemble"
    assert [t["shape"] for t in metadata["inputs"]] == [["-1", "-1"]]
    assert config["platform"] == "ensemble"
    assert len(config["ensemble_scheduling"]["step"]) == 2
    assert "instance_group" not in config


def test_equal_requests_are_answered_from_the_caches(running: Running, client: Any) -> None:
    """That of the ensemble first, then those of the steps."""
    first = client.infer("kept", [floats(7)]).as_numpy("OUT").tolist()
    again = client.infer("kept", [floats(7)]).as_numpy("OUT").tolist()
    client.unload_model("kept")
    client.load_model("kept")
    step_hit = client.infer("kept", [floats(7)]).as_numpy("OUT").tolist()

    assert first == again == step_hit
    assert statistics(running, client, "kept")["hits"] == 0
    assert statistics(running, client, "counted")["hits"] >= 1


def test_what_a_cache_keeps_of_an_ensemble_is_forgotten_with_the_load_of_a_step(
    client: Any, root: Path
) -> None:
    """The answer would be another one now."""
    before = client.infer("kept", [floats(9)]).as_numpy("OUT").tolist()
    write_code(root, "counted", CODES["counted"].replace("+ len(CALLS)", "- 1"))
    client.load_model("counted")
    after = client.infer("kept", [floats(9)]).as_numpy("OUT").tolist()
    write_code(root, "counted", CODES["counted"])
    client.load_model("counted")

    assert before[0] > 9
    assert after == [8]


def test_metrics_tell_of_ensembles_as_of_models(running: Running, client: Any) -> None:
    """Every series is there; nothing waits in an ensemble itself."""
    client.infer("triple", [floats([1])])
    until(lambda: not running.server.core.inflight)

    with urllib.request.urlopen(
        f"http://127.0.0.1:{running.metrics_port}/metrics", timeout=10
    ) as reply:
        lines = reply.read().decode().splitlines()

    label = '{model="triple",version="1"}'
    assert f"nv_inference_pending_request_count{label} 0" in lines
    counted = [line for line in lines if line.startswith(f"nv_inference_request_success{label}")]
    assert len(counted) == 1
    assert int(counted[0].split()[-1]) > 0


def test_a_caller_that_is_gone_reaches_the_step_that_executes(
    running: Running, client: Any
) -> None:
    """It sees that it is cancelled, no step after it is started, and both count it."""
    names = ("slow", "patient")
    before = [statistics(running, client, name)["fail"] for name in names]
    counted = statistics(running, client, "counted")["executions"]

    call = client.async_infer("slow", [floats(30)], lambda result, error: None)
    until(lambda: running.server.core.model("patient").unanswered == 1)
    call.cancel()
    until(lambda: not running.server.core.inflight)

    after = [statistics(running, client, name)["fail"] for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]
    assert statistics(running, client, "counted")["executions"] == counted


def test_a_deadline_holds_for_the_steps(running: Running, client: Any) -> None:
    """Like any caller's."""
    with pytest.raises(InferenceServerException, match=r"(?i)deadline exceeded"):
        client.infer("slow", [floats(30)], client_timeout=0.1)
    until(lambda: not running.server.core.inflight)


# -- loading -------------------------------------------------------------------------------------


def test_an_ensemble_whose_model_is_missing_says_which(client: Any) -> None:
    """In the index, and at a load."""
    index = client.get_model_repository_index(as_json=True)["models"]

    (entry,) = [each for each in index if each["name"] == "broken"]
    assert entry["state"] == "UNAVAILABLE"
    assert (
        "ensemble 'broken' needs model 'ghost' for step 0, which does not serve"
        in (entry["reason"])
    )
    with pytest.raises(InferenceServerException, match="needs model 'ghost' for step 0"):
        client.load_model("broken")


def test_reloading_a_step_under_load_fails_nobody(
    running: Running, client: Any, root: Path
) -> None:
    """Each request finds the version that serves."""
    failures: list[Exception] = []
    answers: list[float] = []
    ended = threading.Event()

    def call() -> None:
        with triton.InferenceServerClient(running.target) as own:
            while not ended.is_set():
                try:
                    found = own.infer("nine_times", [floats([1])]).as_numpy("OUT")
                    answers.append(float(found[0, 0]))
                except Exception as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(12):
            name = ("double", "add", "triple")[number % 3]
            if name == "triple":
                write_ensemble(root, name, ENSEMBLES[name] + "#" * number)
            else:
                write_code(root, name, CODES[name] + "#" * number)
            client.load_model(name)
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)

    assert failures == []
    assert set(answers) == {9.0}
    assert len(answers) > 12


def test_an_ensemble_is_ready_while_its_models_are(client: Any) -> None:
    """Without one of them a call is UNAVAILABLE and names it; once it is back, all is well."""
    before = client.is_model_ready("careful")
    client.unload_model("picky")
    without = client.is_model_ready("careful")
    server = client.is_server_ready()
    with pytest.raises(InferenceServerException, match="step 0 'picky': Request for unknown") as no:
        client.infer("careful", [floats([1])])
    client.load_model("picky")

    assert (before, without, server) == (True, False, False)
    assert no.value.status() == "StatusCode.UNAVAILABLE"
    assert client.is_model_ready("careful")
    assert client.infer("careful", [floats([1])]).as_numpy("OUT").tolist() == [[1]]


def test_a_step_that_was_loaded_as_another_model_is_told_of(client: Any, root: Path) -> None:
    """Until the ensemble is loaded again, or the model as it was."""
    write_code(root, "picky", CODES["picky"].replace('named("Y")', 'named("Z")'))
    client.load_model("picky")
    with pytest.raises(InferenceServerException, match="'Y' is no output of the model") as no:
        client.infer("careful", [floats([1])])
    ready = client.is_model_ready("careful")
    with pytest.raises(InferenceServerException, match="'Y' is no output of the model"):
        client.load_model("careful")
    write_code(root, "picky", CODES["picky"])
    client.load_model("picky")

    assert no.value.status() == "StatusCode.FAILED_PRECONDITION"
    assert not ready
    assert client.infer("careful", [floats([1])]).as_numpy("OUT").tolist() == [[1]]


def test_an_ensemble_and_its_models_come_and_go_together(client: Any) -> None:
    """A load brings what is missing; an unload with dependents takes what nobody else needs."""
    client.unload_model("optional")
    client.unload_model("careful", unload_dependents=True)
    gone = [client.is_model_ready(name) for name in ("careful", "picky", "double")]
    client.load_model("careful")
    client.load_model("optional")

    assert gone == [False, False, True]
    assert client.is_model_ready("picky")
    assert client.infer("careful", [floats([1])]).as_numpy("OUT").tolist() == [[1]]


def test_an_ensemble_of_itself_is_refused(client: Any, root: Path) -> None:
    """Through another, which then goes on as it was."""
    steps = [step("careful", {"IN": "IN"}, {"OUT": "OUT"})]
    config = ensemble([tensor("IN")], [tensor("OUT")], steps, "max_batch_size: 8\n")
    write_ensemble(root, "round", config)
    client.load_model("round")

    looped = ENSEMBLES["careful"].replace('"picky"', '"round"').replace('"X"', '"IN"')
    write_ensemble(root, "careful", looped.replace('"Y"', '"OUT"'))
    with pytest.raises(InferenceServerException, match="careful -> round -> careful"):
        client.load_model("careful")
    write_ensemble(root, "careful", ENSEMBLES["careful"])
    client.unload_model("round")

    assert client.infer("careful", [floats([1])]).as_numpy("OUT").tolist() == [[1]]


def test_lint_finds_what_does_not_fit(tmp_path: Path) -> None:
    """Between ensembles and their models, with the line."""
    write_ensemble(
        tmp_path,
        "a",
        ensemble(
            [tensor("IN")],
            [tensor("OUT")],
            [step("typed", {"X": "IN"}, {"NO": "OUT"}), step("ghost", {"X": "IN"}, {"Y": "idle"})],
        ),
    )
    write_ensemble(
        tmp_path,
        "b",
        ensemble([tensor("IN")], [tensor("OUT")], [step("c", {"X": "IN"}, {"Y": "OUT"})]),
    )
    write_ensemble(
        tmp_path,
        "c",
        ensemble([tensor("X")], [tensor("Y")], [step("b", {"IN": "X"}, {"OUT": "Y"})]),
    )
    typed = f"input {tensor('X', kind='INT32')}\noutput {tensor('Y')}\n"
    write_ensemble(tmp_path, "typed", typed + 'backend: "python"\n')

    _, findings = lint(tmp_path)

    told = {(finding.place, finding.severity, finding.line): finding.text for finding in findings}
    assert told[("a/config.pbtxt", "warning", 6)].endswith(
        "there is no model 'ghost' in this repository"
    )
    texts = [finding.text for finding in findings]
    assert any("inconsistent data type: the tensor 'IN' is TYPE_FP32" in text for text in texts)
    assert any("'NO' is no output of the model" in text for text in texts)
    assert any("contains itself: b -> c -> b" in text for text in texts)


def test_a_server_that_stops_answers_the_ensembles_under_way(tmp_path: Path) -> None:
    """Every step of theirs, and then goes down cleanly."""
    write_code(tmp_path, "patient", CODES["patient"])
    write_code(tmp_path, "counted", CODES["counted"])
    write_ensemble(tmp_path, "slow", ENSEMBLES["slow"])
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()

    with ServerThread(options([tmp_path])) as running:
        client = triton.InferenceServerClient(running.target)
        client.async_infer("slow", [floats(0.3)], lambda result, error: done.put((result, error)))
        until(lambda: running.server.core.inflight >= 1)
    result, error = done.get(timeout=10)
    client.close()

    assert error is None
    assert result.as_numpy("AFTER").tolist() == pytest.approx([1.3])
