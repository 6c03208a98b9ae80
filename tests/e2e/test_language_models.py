"""A language model behind real sockets: the same texts by both calls, for clients of every kind."""

import json
import queue
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("llguidance")

import tritonclient.grpc as triton
from tests.e2e.language_models import (
    PROMPT,
    ask,
    is_idle,
    joined,
    metrics,
    outputs,
    tensors,
    text_of,
    wait_until,
    write_language_model,
)
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the trained model, one as TensorRT-LLM's clients know it, and a small one."""
    root = tmp_path_factory.mktemp("language_models")
    write_language_model(root, "tiny", max_num_seqs=32)
    write_language_model(root, "ahead", max_num_seqs=32, async_steps="on")
    warm = write_language_model(root, "warm")
    (warm / "1" / "generation_config.json").write_text('{"top_k": 1, "eos_token_id": 0}')
    write_language_model(root, "trt", "max_batch_size: 8\n")
    with ServerThread(options([root])) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def collect(
    client: Any,
    requests: list[tuple[str, list[Any], dict[str, Any]]],
    timeout_s: float = 60,
    model: str = "tiny",
) -> dict[str, list[Any]]:
    """Send requests over one stream; their responses by id, until each has its last."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for identity, inputs, more in requests:
        client.async_stream_infer(model, inputs, request_id=identity, **more)
    found: dict[str, list[Any]] = {identity: [] for identity, *_ in requests}
    left = set(found)
    while left:
        result = answers.get(timeout=timeout_s)
        assert not isinstance(result, Exception), result
        response = result.get_response()
        found[response.id].append(result)
        if response.parameters["triton_final_response"].bool_param:
            left.discard(response.id)
    client.stop_stream()
    return found


def test_sixty_four_streams_at_once_are_what_they_are_alone(running: Running, client: Any) -> None:
    """Each put together is the whole answer with the same seed, by the other call."""
    asked = {
        str(seed): ask(f"class Name{seed}", seed=seed, max_tokens=24, ignore_eos=True)
        for seed in range(64)
    }

    streams = collect(client, [(name, inputs, {}) for name, inputs in asked.items()])
    whole = {name: text_of(client.infer("tiny", inputs)) for name, inputs in asked.items()}

    assert {name: joined(results) for name, results in streams.items()} == whole
    assert len(set(whole.values())) > 32
    assert all(len(results) > 3 for results in streams.values())
    assert is_idle(running)


def test_steps_ahead_of_what_is_known_give_the_same_texts(running: Running, client: Any) -> None:
    """By both calls, beside callers that go in the middle; nothing is left of them."""
    asked = {str(seed): ask(f"import name{seed}", seed=seed, max_tokens=16) for seed in range(16)}
    for k in range(4):
        call = client.async_infer("ahead", ask(seed=k, max_tokens=400), lambda *_: None)
        wait_until(lambda: metrics(running, "ahead")["num_requests_running"] > 0)
        call.cancel()

    streams = collect(client, [(name, x, {}) for name, x in asked.items()], model="ahead")
    whole = {name: text_of(client.infer("ahead", inputs)) for name, inputs in asked.items()}
    plain = {name: text_of(client.infer("tiny", inputs)) for name, inputs in asked.items()}

    assert {name: joined(results) for name, results in streams.items()} == plain
    assert whole == plain
    wait_until(lambda: is_idle(running, "ahead"))


def test_a_model_is_sampled_as_its_files_say_unless_a_request_does(client: Any) -> None:
    """Here by the likeliest token, which the same model does not take otherwise."""
    wish: dict[str, Any] = {"seed": 3, "max_tokens": 24}

    alone = text_of(client.infer("warm", ask(**wish)))
    told = text_of(client.infer("warm", ask(**wish, top_k=0)))
    greedy = text_of(client.infer("tiny", ask(**wish, temperature=0)))
    free = text_of(client.infer("tiny", ask(**wish)))

    assert alone == greedy != free
    assert told == free


def test_both_calls_are_answered_at_the_same_time(client: Any, running: Running) -> None:
    """By one model, loaded once; what is whole does not wait for what is streamed."""
    whole: list[str] = []

    def infer(seed: int) -> None:
        with triton.InferenceServerClient(running.target) as mine:
            whole.append(text_of(mine.infer("tiny", ask(seed=seed, max_tokens=12))))

    threads = [threading.Thread(target=infer, args=(k % 3,)) for k in range(9)]
    for thread in threads:
        thread.start()
    streams = collect(client, [(str(k), ask(seed=k % 3, max_tokens=12), {}) for k in range(9)])
    for thread in threads:
        thread.join()

    assert sorted(joined(results) for results in streams.values()) == sorted(whole)


def test_a_request_as_tritons_vllm_backend_knows_it_is_answered(client: Any) -> None:
    """With its tensors, its numbers in quotes, and its outputs."""
    inputs = tensors(
        {
            "text_input": PROMPT,
            "stream": False,
            "sampling_parameters": {"temperature": "0", "top_p": "0.95", "max_tokens": "8"},
            "exclude_input_in_output": False,
            "return_finish_reason": True,
            "return_cumulative_logprob": True,
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
            "return_logprobs": True,
        }
    )

    result = client.infer("tiny", inputs)
    (streamed,) = collect(client, [("s", inputs, {})])["s"]

    assert text_of(result).startswith(PROMPT)
    assert text_of(result) == text_of(streamed)
    assert result.as_numpy("finish_reason")[0] == b"length"
    assert result.as_numpy("num_output_tokens")[0] == 8
    assert result.as_numpy("num_input_tokens")[0] > 1
    assert result.as_numpy("cumulative_logprob")[0] < 0
    assert len(json.loads(result.as_numpy("logprobs")[0])) == 8


def test_a_request_as_tensorrt_llms_ensemble_knows_it_is_answered(client: Any) -> None:
    """Its tensors have a leading dimension, and so have its answers."""
    given: dict[str, Any] = {
        "text_input": np.array([[PROMPT.encode()]], dtype=object),
        "max_tokens": np.array([[8]], np.int32),
        "bad_words": np.array([[b""]], dtype=object),
        "stop_words": np.array([[b""]], dtype=object),
        "top_k": np.array([[1]], np.int32),
        "temperature": np.array([[1.0]], np.float32),
        "beam_width": np.array([[1]], np.int32),
        "seed": np.array([[(1 << 64) - 1]], np.uint64),
        "stream": np.array([[False]]),
        "return_log_probs": np.array([[True]]),
    }

    result = client.infer("trt", tensors(given))

    plain = client.infer("tiny", ask(temperature=0, max_tokens=8))
    assert result.as_numpy("text_output").shape == (1, 1)
    assert text_of(result) == text_of(plain)
    assert result.as_numpy("cumulative_logprob").shape == (1, 1)


def test_several_answers_and_several_prompts_come_in_order(client: Any) -> None:
    """All choices of the first prompt first; over a stream each by its index."""
    prompts = ["import ", "class A"]
    sampling: dict[str, Any] = {"n": 3, "seed": 3, "temperature": 1.0, "max_tokens": 6}
    names = outputs("text_output", "index", "num_input_tokens", "output_ids")

    whole = client.infer("tiny", ask(prompts, **sampling), outputs=names)
    one = client.infer("tiny", ask(prompts[1], **sampling), outputs=names)
    deltas = collect(client, [("n", ask(prompts[1], **sampling), {"outputs": names})])["n"]

    texts = [text.decode() for text in whole.as_numpy("text_output")]
    assert whole.as_numpy("index").tolist() == list(range(6))
    assert texts[3:] == [text.decode() for text in one.as_numpy("text_output")]
    assert len(set(texts)) == 6
    assert len(whole.as_numpy("num_input_tokens")) == 2
    by_choice = [joined(r for r in deltas if r.as_numpy("index")[0] == k) for k in range(3)]
    assert by_choice == texts[3:]


def test_a_text_ends_before_a_stop_string_that_is_never_half_told(client: Any) -> None:
    """Streamed as well."""
    whole = text_of(client.infer("tiny", ask(temperature=0, max_tokens=30)))
    stop = whole[8:12]
    sampling: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "stop": [stop]}
    names = outputs("text_output", "finish_reason", "stop_reason")

    result = client.infer("tiny", ask(**sampling), outputs=names)
    deltas = collect(client, [("s", ask(**sampling), {"outputs": names})])["s"]

    assert text_of(result) == joined(deltas) == whole[: whole.index(stop)]
    assert result.as_numpy("finish_reason")[0] == b"stop"
    assert deltas[-1].as_numpy("stop_reason")[0].decode() == stop


def test_a_structured_answer_has_its_form_also_in_company(client: Any) -> None:
    """Three at a time, of one schema, beside others without one."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }

    result = client.infer("tiny", ask(json=schema, n=3, temperature=1.2, max_tokens=40, seed=1))
    deltas = collect(
        client,
        [("free", ask(max_tokens=20), {}), ("bound", ask(regex="[ab]{7}", max_tokens=20), {})],
    )["bound"]

    for text in result.as_numpy("text_output"):
        assert 0 <= json.loads(text)["n"] <= 99
    assert len(joined(deltas)) == 7
    assert set(joined(deltas)) <= {"a", "b"}


@pytest.mark.parametrize(
    ("sampling", "prompt", "status", "words"),
    [
        ({"max_tokens": 5000}, PROMPT, "INVALID_ARGUMENT", "max_tokens 5000"),
        ({}, "x " * 5000, "INVALID_ARGUMENT", "expected at most"),
        ({"max_tokens": 0}, PROMPT, "INVALID_ARGUMENT", "max_tokens"),
        ({"max_tokens": -1}, PROMPT, "INVALID_ARGUMENT", "max_tokens"),
        ({"n": 1_000_000}, PROMPT, "INVALID_ARGUMENT", "'n'"),
        ({"temperature": -1}, PROMPT, "INVALID_ARGUMENT", "temperature"),
        ({"regex": "(("}, PROMPT, "INVALID_ARGUMENT", "regex"),
        ({"temprature": 1}, PROMPT, "INVALID_ARGUMENT", "did you mean 'temperature'"),
        ({"adapter": "none"}, PROMPT, "INVALID_ARGUMENT", "none"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(
    client: Any, running: Running, sampling: dict[str, Any], prompt: str, status: str, words: str
) -> None:
    """By either call; a stream goes on."""
    with pytest.raises(InferenceServerException) as refused:
        client.infer("tiny", ask(prompt, **sampling))
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("tiny", ask(prompt, **sampling))
    streamed = answers.get(timeout=20)
    client.async_stream_infer("tiny", ask(max_tokens=1))
    after = answers.get(timeout=20)
    client.stop_stream()

    assert refused.value.status() == f"StatusCode.{status}"
    assert words in refused.value.message()
    assert words in str(streamed)
    assert not isinstance(after, Exception)
    assert is_idle(running)


def test_a_stream_asked_of_the_call_with_one_response_is_refused(client: Any) -> None:
    """It says which call to use."""
    inputs = tensors({"text_input": PROMPT, "stream": True})

    with pytest.raises(InferenceServerException, match="ModelStreamInfer"):
        client.infer("tiny", inputs)


def test_histograms_and_statistics_agree_with_what_was_answered(
    client: Any, running: Running
) -> None:
    """A first token each, a gap for each other token, a success for each request."""

    def counts() -> Any:
        return client.get_inference_statistics("tiny").model_stats[0].inference_stats

    names = outputs("text_output", "num_output_tokens", "num_input_tokens", "ttft_ns")
    before, counted = metrics(running), counts().success.count
    asked = [(str(k), ask(max_tokens=3 + k, ignore_eos=True), {"outputs": names}) for k in range(8)]

    whole = [client.infer("tiny", inputs, **more) for _, inputs, more in asked]
    streams = collect(client, asked)
    results = whole + [deltas[-1] for deltas in streams.values()]

    after = metrics(running)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    tokens = sum(int(r.as_numpy("num_output_tokens")[0]) for r in results)
    first_s = sum(int(r.as_numpy("ttft_ns")[0]) for r in results) / 1e9
    assert tokens == 2 * sum(3 + k for k in range(8))
    assert grown["generation_tokens_total"] == tokens
    assert grown["time_to_first_token_seconds_count"] == 16
    assert grown["time_to_first_token_seconds_sum"] == pytest.approx(first_s, rel=1e-3)
    assert grown["inter_token_latency_seconds_count"] == tokens - 16
    assert grown["e2e_request_latency_seconds_count"] == 16
    assert grown["request_success_total:length"] == 16
    assert grown["e2e_request_latency_seconds_sum"] >= (
        grown["time_to_first_token_seconds_sum"] + grown["inter_token_latency_seconds_sum"]
    ) * (1 - 1e-6)
    assert grown["prompt_tokens_total"] == sum(
        int(r.as_numpy("num_input_tokens")[0]) for r in results
    )
    assert counts().success.count - counted == 16
    assert counts().fail.count == 0 or counts().success.count > counted


def test_the_first_delta_comes_before_the_whole_is_there(client: Any, running: Running) -> None:
    """Streams are no whole answers cut into pieces."""
    seen: queue.Queue[Any] = queue.Queue()
    client.start_stream(partial(_note, seen))
    client.async_stream_infer("tiny", ask(max_tokens=200, ignore_eos=True))
    first = seen.get(timeout=20)
    busy = metrics(running)["num_requests_running"]
    client.stop_stream(cancel_requests=True)

    assert not isinstance(first, Exception)
    assert busy == 1
    wait_until(lambda: is_idle(running))


def _note(answers: "queue.Queue[Any]", result: Any, error: Any) -> None:
    answers.put(error or result)


def test_the_repository_is_recognised_without_a_configuration(tmp_path: Path) -> None:
    """A folder as Hugging Face has it is enough."""
    folder = write_language_model(tmp_path, "plain")
    (folder / "config.pbtxt").unlink()

    with (
        ServerThread(options([tmp_path])) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        result = client.infer("plain", ask(max_tokens=4))

    assert result.as_numpy("text_output").shape == (1,)
