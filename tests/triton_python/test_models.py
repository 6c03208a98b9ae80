"""Models written for Triton's Python backend, unmodified, in a whole server."""

import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.e2e.running import Running
from tests.triton_python.serving import Stream, ask, text
from tritonclient.utils import InferenceServerException

from penstock_runtime.datatype import bf16_to_float32, float32_to_bf16

A = np.array([[1.0, 2.0, 3.0]], np.float32)
B = np.array([[10.0, 20.0, 30.0]], np.float32)


def refusal(client: Any, model: str, inputs: dict[str, Any], **more: Any) -> tuple[str, str]:
    """Status and text of a request that fails."""
    with pytest.raises(InferenceServerException) as caught:
        ask(client, model, inputs, **more)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def test_all_models_load(running: Running) -> None:
    """Every folder is served as it is."""
    states = {
        entry.name: (entry.state.value, entry.reason) for entry in running.server.core.index()
    }

    assert set(states.values()) == {("READY", "")}


def test_a_model_answers_each_request_by_itself(client: Any) -> None:
    """What execute returns are the answers, in the order of the requests."""
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(ask, client, "add_sub", {"INPUT0": A + i, "INPUT1": B}) for i in range(16)
        ]
        answers = [job.result() for job in jobs]

    for i, answer in enumerate(answers):
        assert np.array_equal(answer.as_numpy("OUTPUT0"), A + i + B)
        assert np.array_equal(answer.as_numpy("OUTPUT1"), A + i - B)


def test_only_outputs_that_are_asked_for_are_answered(client: Any) -> None:
    """Other outputs of the model are left out."""
    answer = ask(client, "add_sub", {"INPUT0": A, "INPUT1": B}, outputs=["OUTPUT1"])

    assert [output.name for output in answer.get_response().outputs] == ["OUTPUT1"]


def test_a_model_completes_its_configuration(client: Any) -> None:
    """What auto_complete_config says is the configuration, beside what the file says."""
    config = client.get_model_config("completes").config

    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (4, True)
    assert [(each.name, list(each.dims)) for each in config.input] == [("X", [-1])]
    assert [group.count for group in config.instance_group] == [2]
    assert np.array_equal(ask(client, "completes", {"X": A}).as_numpy("Y"), A)


def test_strings_go_in_and_out_as_bytes(client: Any) -> None:
    """TYPE_STRING are object arrays of bytes; a model may answer with text."""
    words = np.array([["grün".encode(), b"", b"x" * 300]], dtype=np.object_)

    answer = ask(client, "strings", {"TEXT": words})

    assert answer.as_numpy("UPPER").tolist() == [["GRÜN".encode(), b"", b"X" * 300]]
    assert answer.as_numpy("LENGTH").tolist() == [[5, 0, 300]]


def test_numbers_go_through_dlpack_and_bfloat16_too(client: Any) -> None:
    """Tensors pass to torch and back without numpy, bfloat16 as itself."""
    halves = np.array([[1.5, -2.0, 0.25]], np.float32)

    answer = ask(client, "halves", {"X": A, "H": (float32_to_bf16(halves),)})

    assert np.array_equal(answer.as_numpy("Y"), A * 2)
    raw = answer.get_response().raw_output_contents[1]
    thrice = bf16_to_float32(np.frombuffer(raw, np.uint16))
    assert np.array_equal(float32_to_bf16(thrice), float32_to_bf16(halves[0] * 3))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, "UNKNOWN"),
        (1, "INTERNAL"),
        (2, "NOT_FOUND"),
        (3, "INVALID_ARGUMENT"),
        (4, "UNAVAILABLE"),
        (5, "UNIMPLEMENTED"),
        (6, "ALREADY_EXISTS"),
        (7, "CANCELLED"),
    ],
)
def test_error_codes_become_statuses(client: Any, code: int, status: str) -> None:
    """A TritonError is a status of gRPC, with the model's words."""
    found = refusal(client, "errors", {"CODE": np.array([[code]], np.int32)}, request_id="r")

    assert found == (status, f"[request id: r] error of code {code}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-1, "the model gave up"),
        (-2, "the model said no"),
        (-3, "execute of model 'errors' returned 0 responses to 1 requests"),
        (-4, "output 'OUT' of model 'errors' is INT64, expected INT32"),
    ],
)
def test_what_a_model_does_wrong_fails_the_request(client: Any, code: int, words: str) -> None:
    """An exception, a list of the wrong length, an output of the wrong type: INTERNAL, and why."""
    found = refusal(client, "errors", {"CODE": np.array([[code]], np.int32)})

    assert found == ("INTERNAL", f"[request id: <id_unknown>] {words}")


def settled(running: Running, client: Any) -> Any:
    """The statistics of a model that has nothing to do, once an execution whose requests have been
    answered is counted too.
    """
    wait_until_idle(running)
    last = None
    while True:
        found = client.get_inference_statistics("errors").model_stats[0]
        if found == last:
            return found
        last = found
        time.sleep(0.05)


def test_each_request_moves_one_counter(running: Running, client: Any) -> None:
    """Successes and failures add up to what was asked; a failed execution is none."""
    before = settled(running, client)
    for code in (100, 3, -1, 100):
        try:
            ask(client, "errors", {"CODE": np.array([[code]], np.int32)})
        except InferenceServerException:
            continue
    after = settled(running, client)

    def grown(name: str) -> int:
        return int(
            getattr(after.inference_stats, name).count - getattr(before.inference_stats, name).count
        )

    assert (grown("success"), grown("fail")) == (2, 2)
    assert after.execution_count - before.execution_count == 3


def test_a_model_is_told_everything(client: Any) -> None:
    """Arguments, configuration, and every member of a request."""
    answer = ask(
        client,
        "facts",
        {"X": np.zeros(1, np.float32)},
        request_id="r7",
        timeout=9000,
        parameters={"colour": "green", "depth": 3, "deep": True},
        headers={"x-tenant": "t1"},
        outputs=["FACTS"],
    )

    facts = json.loads(answer.as_numpy("FACTS")[0])
    assert facts["args"] == {
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_instance_name": "facts_0_0",
        "repository": "facts",
        "model_version": "1",
        "model_name": "facts",
    }
    assert facts["config"] == {
        "name": "facts",
        "colour": "red",
        "input": "TYPE_FP32",
        "output": [1],
        "nothing": None,
        "decoupled": False,
    }
    assert (facts["id"], facts["timeout"], facts["outputs"]) == ("r7", 9000, ["FACTS"])
    assert (facts["correlation"], facts["flags"], facts["cancelled"]) == (0, 0, False)
    assert facts["parameters"] == {
        "colour": "green",
        "depth": 3,
        "deep": True,
        "x-tenant": "t1",
    }


def test_sequences_are_told(client: Any) -> None:
    """Correlation ids of both kinds, and the flags of a sequence."""
    facts = [
        json.loads(
            ask(client, "facts", {"X": np.zeros(1, np.float32)}, **more).as_numpy("FACTS")[0]
        )
        for more in (
            {"sequence_id": 5, "sequence_start": True},
            {"sequence_id": "five", "sequence_end": True},
        )
    ]

    assert [(each["correlation"], each["flags"]) for each in facts] == [(5, 1), ("five", 2)]


def test_all_outputs_are_requested_where_none_is_named(client: Any) -> None:
    """As in Triton the names are those of the configuration then."""
    answer = ask(client, "facts", {"X": np.zeros(1, np.float32)})

    assert json.loads(answer.as_numpy("FACTS")[0])["outputs"] == ["FACTS", "Y"]


def test_parameters_of_a_response_arrive(client: Any) -> None:
    """Text, numbers and truth values, by their own types."""
    answer = ask(client, "speaks", {"X": np.zeros(1, np.float32)}).get_response()

    parameters = answer.parameters
    assert parameters["text"].string_param == "a"
    assert parameters["whole"].int64_param == 3
    assert parameters["yes"].bool_param
    assert parameters["part"].double_param == 0.5


# -- senders -------------------------------------------------------------------------------------


def test_responses_come_from_a_thread_after_execute(client: Any) -> None:
    """One for each element, in order, then the empty last one."""
    stream = Stream(client)
    stream.send("repeat", {"IN": np.array([4, 5, 6], np.int32)})

    *responses, last = stream.until_final()

    assert [int(each.as_numpy("OUT")[0]) for each in responses] == [4, 5, 6]
    assert not last.get_response().outputs
    client.stop_stream()


def test_a_coroutine_sends_and_says_which_is_the_last(client: Any) -> None:
    """The last response says so itself; requests of a stream go on side by side."""
    stream = Stream(client)
    for count in (3, 0, 2):
        stream.send("square", {"IN": np.array([count], np.int32)}, request_id=str(count))

    found: dict[str, list[int]] = {"3": [], "0": [], "2": []}
    ended = 0
    while ended < 3:
        result, error = stream.next()
        assert error is None
        response = result.get_response()
        ended += response.parameters["triton_final_response"].bool_param
        found[response.id] += result.as_numpy("OUT").tolist() if response.outputs else []

    assert found == {"3": [3, 3, 3], "0": [], "2": [2, 2]}
    client.stop_stream()


def test_a_request_is_answered_by_its_sender_or_by_what_is_returned(client: Any) -> None:
    """In a batch some elements are None, and answered later."""
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(ask, client, "senders", {"X": np.array([[number]], np.int32)})
            for number in range(12)
        ]
        answers = [int(job.result().as_numpy("Y")[0, 0]) for job in jobs]

    assert answers == [number * 10 for number in range(12)]


def test_a_request_that_is_forgotten_fails(client: Any) -> None:
    """None for a request whose sender nobody has: it cannot be answered any more."""
    found = refusal(client, "senders", {"X": np.array([[-1]], np.int32)})

    assert found[0] == "INTERNAL"
    assert found[1].endswith("the model let go of the request without a last response")


def test_a_decoupled_request_that_is_forgotten_fails(client: Any) -> None:
    """The same where any number of responses may come."""
    stream = Stream(client)
    stream.send("waits", {"MODE": text("forget")})

    _, error = stream.next()

    assert "without a last response" in str(error)
    client.stop_stream()


def test_nothing_can_be_sent_after_the_last(client: Any) -> None:
    """The sender raises, and the caller sees one end."""
    stream = Stream(client)
    stream.send("waits", {"MODE": text("late")})
    assert len(stream.until_final()) == 1
    stream.send("waits", {"MODE": text("seen")})

    (seen,) = stream.until_final()

    assert seen.as_numpy("OUT")[0] >= 100
    client.stop_stream()


def test_a_model_sees_that_its_caller_gave_up(running: Running, client: Any) -> None:
    """is_cancelled() of a sender follows the client; the request counts as cancelled."""
    stream = Stream(client)
    stream.send("waits", {"MODE": text("watch")})
    stream.next()
    client.stop_stream(cancel_requests=True)
    wait_until_idle(running)

    def seen() -> int:
        again = Stream(client)
        again.send("waits", {"MODE": text("seen")})
        count = int(again.until_final()[0].as_numpy("OUT")[0])
        client.stop_stream()
        return count % 100

    wait_for(lambda: seen() == 1)
    failures = running.server.core.statistics("waits")[0].failures
    assert sum(count for reason, count in failures.items() if reason.value == "CANCELED") == 1


def test_a_deadline_ends_a_request_that_is_kept(running: Running, client: Any) -> None:
    """A model that never sends its last response holds nothing up beyond the caller's time."""
    stream = Stream(client, stream_timeout=0.3)
    stream.send("waits", {"MODE": text("keep")})

    _, error = stream.next()
    wait_until_idle(running)

    assert "deadline exceeded" in str(error).lower()
    client.stop_stream()


def test_an_unload_ends_a_request_that_is_kept(running: Running, client: Any) -> None:
    """What a model that goes has not answered is answered UNAVAILABLE, and it can come back."""
    stream = Stream(client)
    stream.send("waits", {"MODE": text("keep")})
    wait_for(lambda: running.server.core.inflight == 1)
    running.server.core.unload("waits")

    _, error = stream.next()
    client.stop_stream()
    running.server.core.repository.load("waits")  # type: ignore[call-arg]

    assert "Server is stopping" in str(error)
    assert client.is_model_ready("waits")


# -- models that call models -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_model_calls_another(client: Any, mode: str) -> None:
    """One call after the other, or several at once in a loop of the model's own."""
    inputs = {"MODE": text(mode).reshape(1, 1), "INPUT0": A, "INPUT1": B}

    answer = ask(client, "calls", inputs)

    assert np.array_equal(answer.as_numpy("OUT"), (A + B) * (A - B))


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        ("unknown", "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        ("short", "INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs for model 'add_sub'"),
    ],
)
def test_the_error_of_a_call_is_in_its_response(
    client: Any, mode: str, status: str, words: str
) -> None:
    """It is not raised; a model that passes it on passes on its code."""
    inputs = {"MODE": text(mode).reshape(1, 1), "INPUT0": A, "INPUT1": B}

    found = refusal(client, "calls", inputs)

    assert found[0] == status
    assert words in found[1]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_model_iterates_over_the_responses_of_another(client: Any, mode: str) -> None:
    """All that a decoupled model sends."""
    inputs = {"MODE": text(mode), "IN": np.arange(600, dtype=np.int32)}

    answer = ask(client, "streams", inputs)

    assert (answer.as_numpy("SUM")[0], answer.as_numpy("COUNT")[0]) == (600 * 599 // 2, 600)


def test_an_iteration_can_be_cancelled(running: Running, client: Any) -> None:
    """The called model's request ends, and is counted as cancelled."""
    inputs = {"MODE": text("first"), "IN": np.arange(5000, dtype=np.int32)}

    answer = ask(client, "streams", inputs)
    wait_until_idle(running)

    assert answer.as_numpy("COUNT")[0] == 1


def test_a_decoupled_model_needs_to_be_called_as_one(client: Any) -> None:
    """exec() for one response says what is wrong, with Triton's words."""
    found = refusal(client, "streams", {"MODE": text("wrong"), "IN": np.arange(3, dtype=np.int32)})

    assert found[0] == "UNIMPLEMENTED"
    assert "Please use 'decoupled=True' argument" in found[1]


def test_calls_that_could_never_end_are_refused(client: Any) -> None:
    """Two instances can wait for each other in a row; what needs a third is told so."""
    fine = ask(client, "itself", {"N": np.array([1], np.int32)})

    found = refusal(client, "itself", {"N": np.array([2], np.int32)})

    assert fine.as_numpy("OUT")[0] == 1
    assert found[0] == "UNAVAILABLE"
    assert "every instance that could answer waits for this call itself" in found[1]


def test_many_calls_that_go_round_all_end(running: Running, client: Any) -> None:
    """However they meet, each is answered or refused, and afterwards all is as before."""
    outcomes: list[str] = []

    def one() -> None:
        try:
            ask(client, "itself", {"N": np.array([1], np.int32)})
            outcomes.append("answered")
        except InferenceServerException as error:
            outcomes.append(str(error.status()))

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until_idle(running)

    assert len(outcomes) == 12
    assert set(outcomes) <= {"answered", "StatusCode.UNAVAILABLE"}
    assert ask(client, "itself", {"N": np.array([1], np.int32)}).as_numpy("OUT")[0] == 1


def test_a_model_loads_and_unloads_another(client: Any) -> None:
    """load_model, unload_model and is_model_ready; what fails is raised."""
    ready = [
        bool(ask(client, "steers", {"WORD": text(word)}).as_numpy("READY")[0])
        for word in ("look", "unload", "load")
    ]
    found = refusal(client, "steers", {"WORD": text("nobody")})

    assert ready == [True, False, True]
    assert found[0] == "INTERNAL"
    assert "failed to load 'nobody'" in found[1]


# -- metrics, readiness ----------------------------------------------------------------------------


def test_metrics_of_a_model_are_told_while_it_is_loaded(running: Running, client: Any) -> None:
    """Counters, gauges and histograms by their own names; gone with the model."""
    for number in (0.5, 5.0, 50.0):
        told = ask(client, "counts", {"X": np.array([number], np.float32)}).as_numpy("Y")

    before = scrape(running)
    running.server.core.unload("counts")
    wait_for(lambda: "asked_total" not in scrape(running))
    running.server.core.repository.load("counts")  # type: ignore[call-arg]

    labels = 'model="counts",version="1"'
    assert told.tolist() == [3.0, 50.0]
    assert f"# TYPE asked_total counter\nasked_total{{{labels}}} 3\n" in before
    assert f"# TYPE last_number gauge\nlast_number{{{labels}}} 50\n" in before
    assert f'numbers_bucket{{le="1",{labels}}} 1\n' in before
    assert f'numbers_bucket{{le="10",{labels}}} 2\n' in before
    assert f"numbers_count{{{labels}}} 3\n" in before


def test_a_model_says_whether_it_is_ready(client: Any) -> None:
    """is_ready is asked now and then, and the model and the server are as ready as it says."""
    assert client.is_model_ready("hooks")

    ask(client, "hooks", {"READY": np.array([False])})
    wait_for(lambda: not client.is_model_ready("hooks"))
    unready = client.is_server_ready()
    ask(client, "hooks", {"READY": np.array([True])})
    wait_for(lambda: client.is_model_ready("hooks"))

    assert not unready
    assert client.is_server_ready()


def scrape(running: Running) -> str:
    """The metrics page."""
    url = f"http://127.0.0.1:{running.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        content: bytes = page.read()
    return content.decode()


def wait_until_idle(running: Running) -> None:
    """Return once every request has its last answer and is counted."""
    wait_for(lambda: running.server.core.inflight == 0)


def wait_for(condition: Any) -> None:
    """Return once it is so; it has to become so."""
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never became so")
