"""What a server says and writes down of a language model in a process of its own: the same as of
one that it has in its own.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("llguidance")

import tritonclient.grpc as triton
from tests.e2e.asking import flagged, page
from tests.e2e.language_models import (
    ask,
    is_idle,
    metrics,
    outputs,
    text_of,
    wait_until,
    write_language_model,
)
from tests.e2e.running import Running, ServerThread
from tests.isolation.delicate import pid_of
from tritonclient.utils import InferenceServerException

from penstock.config_text import parse_config_text
from penstock_runtime.assembly import open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.repository.options import ControlMode, RepositoryOptions

APART = "instance_group [ { kind: KIND_PROCESS } ]\n"
NAME = "apart"
LENGTH = "request_success_total:length"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_language_model(folder, NAME, APART, max_num_seqs=4)
    return folder


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls") / "calls.jsonl"


@pytest.fixture(scope="module")
def running(root: Path, calls: Path) -> Iterator[Running]:
    """A server that keeps texts, and tells everything under all names."""
    flags = (f"--call-log={calls}", "--call-log-content=true", "--model-control-mode=explicit")
    more = (f"--load-model={NAME}", "--metrics-compat=vllm", "--metrics-compat=otel")
    with ServerThread(flagged(root, *flags, *more)) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(path: Path, identity: str) -> dict[str, Any]:
    """The record of this call, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [each for each in records(path) if each.get("id") == identity]

    wait_until(lambda: bool(found()))
    (record,) = found()
    return record


def ask_counted(client: Any, number: int) -> Any:
    """An answer that says how many tokens it took."""
    wanted = outputs("text_output", "num_input_tokens", "num_output_tokens", "finish_reason")
    inputs = ask(f"def number_{number}(", max_tokens=3 + number, ignore_eos=True, seed=number)
    return client.infer(NAME, inputs, outputs=wanted, request_id=f"call {number}")


def number_of(result: Any, name: str) -> int:
    return int(result.as_numpy(name).reshape(-1)[0])


def counters(found: Mapping[str, float]) -> dict[str, float]:
    """Those that may never go back."""
    return {k: v for k, v in found.items() if re.search("_(total|sum|count)(:|$)", k)}


def settled(running: Running, true: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The samples once they say so."""
    found: list[dict[str, float]] = []

    def look() -> bool:
        found[:] = [metrics(running, NAME)]
        return bool(found[0]) and true(found[0])

    wait_until(look)
    return found[0]


def test_series_of_an_engine_apart_are_there_with_it_and_say_what_its_answers_imply(
    running: Running, client: Any
) -> None:
    """Soon after the last of a burst, to the token, under vLLM's and OpenTelemetry's names too."""
    fresh = metrics(running, NAME)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: ask_counted(client, number), range(8)))
    with pytest.raises(InferenceServerException):
        client.infer(NAME, ask("x " * 5000, max_tokens=4))
    found = settled(
        running,
        lambda now: now.get(LENGTH) == 8 and bool(now["admission_rejections_total"]),
    )
    text = page(running)

    assert fresh["generation_tokens_total"] == 0
    tokens = sum(number_of(answer, "num_output_tokens") for answer in answers)
    assert tokens == sum(3 + number for number in range(8))
    assert found["generation_tokens_total"] == tokens
    prompts = sum(number_of(answer, "num_input_tokens") for answer in answers)
    assert found["prompt_tokens_total"] == prompts
    assert found["admission_rejections_total"] == 1
    for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds"):
        assert found[f"{name}_count"] == 8
        assert found[f"{name}_sum"] > 0
    assert found["inter_token_latency_seconds_count"] == tokens - 8
    assert found["request_generation_tokens_sum"] == tokens
    assert found["iteration_tokens_total_sum"] >= tokens
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0
    assert 'engine="apart_0_0"' in text
    (line,) = [each for each in text.splitlines() if each.startswith("vllm:generation_tokens")]
    assert line.endswith(f" {tokens}")
    assert 'gen_ai_server_request_duration_seconds_count{engine="apart_0_0"' in text
    (config,) = [each for each in text.splitlines() if each.startswith("penstock_llm_cache_config")]
    assert 'block_size="16"' in config


def test_every_call_is_recorded_with_its_texts_where_the_server_keeps_them(
    running: Running, client: Any, calls: Path
) -> None:
    """With the times that the engine took, and one that was given up too."""
    answer = ask_counted(client, 15)
    inputs = ask(max_tokens=480, ignore_eos=True, n=16)
    with pytest.raises(InferenceServerException):
        client.infer(NAME, inputs, client_timeout=0.2, request_id="late")
    kept, late = recorded(calls, "call 15"), recorded(calls, "late")

    assert (kept["model"], kept["version"], kept["id"]) == (NAME, "1", "call 15")
    assert (kept["output_tokens"], kept["finish_reason"], kept["status"]) == (18, "length", "OK")
    assert (kept["prompt"], kept["answer"]) == ("def number_15(", text_of(answer))
    assert 0 < kept["ttft_ms"] <= kept["total_ms"]
    assert kept["parameters"]["seed"] == 15
    assert late["status"] in ("DEADLINE_EXCEEDED", "CANCELLED")
    wait_until(lambda: is_idle(running, NAME))


def test_a_kill_in_the_middle_costs_no_counter_what_it_had(
    running: Running, client: Any, calls: Path
) -> None:
    """The series are gone with the process and go on with the next; what it had in hand is
    recorded as what became of it.
    """
    wait_until(lambda: is_idle(running, NAME))
    before = metrics(running, NAME)
    asked: list[Any] = []
    client.async_infer(
        NAME,
        ask(max_tokens=480, ignore_eos=True, n=60),
        lambda result, error: asked.append(error or result),
        request_id="in hand",
    )
    busy = settled(running, lambda now: now["num_requests_running"] > 0)
    killed = pid_of(running, NAME)

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: bool(asked))
    gone = metrics(running, NAME)
    wait_until(lambda: bool(client.is_model_ready(NAME)))
    back = settled(running, bool)
    answer = ask_counted(client, 2)
    after = settled(running, lambda now: now[LENGTH] > back[LENGTH])

    assert gone == {}
    assert isinstance(asked[0], InferenceServerException)
    for earlier, later in ((before, busy), (busy, back), (back, after)):
        assert all(later[name] >= value for name, value in counters(earlier).items())
    assert back["num_requests_running"] == 0
    tokens = number_of(answer, "num_output_tokens")
    assert after["generation_tokens_total"] == back["generation_tokens_total"] + tokens
    assert after[LENGTH] == back[LENGTH] + 1
    lost = recorded(calls, "in hand")
    assert (lost["status"], lost["output_tokens"]) == ("UNAVAILABLE", 0)
    assert "SIGKILL" in lost["error"]


def test_series_go_with_the_model(running: Running, client: Any) -> None:
    """And begin again with it."""
    client.unload_model(NAME)
    wait_until(lambda: client.get_model_repository_index().models[0].state != "READY")
    wait_until(lambda: metrics(running, NAME) == {})
    client.load_model(NAME)

    assert metrics(running, NAME)["generation_tokens_total"] == 0
    assert LENGTH not in metrics(running, NAME)


def test_texts_of_a_model_apart_stay_with_it_where_nobody_keeps_them(
    root: Path, tmp_path: Path
) -> None:
    """The calls are recorded all the same, also one that ends with the server."""
    path = tmp_path / "calls.jsonl"
    with (
        ServerThread(flagged(root, f"--call-log={path}")) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        ask_counted(client, 3)

    (record,) = records(path)
    assert (record["id"], record["output_tokens"], record["status"]) == ("call 3", 6, "OK")
    assert "number_3" not in path.read_text()


def test_how_far_the_weights_of_a_model_apart_are_read_is_told(root: Path) -> None:
    """To their end, by its name."""
    told: list[tuple[str, int, int]] = []
    options = RepositoryOptions((root,), ControlMode.EXPLICIT, startup_models=("*",))
    repository = open_repository(
        options,
        {"config.pbtxt": parse_config_text},
        reading=lambda model, done, total: told.append((model, done, total)),
    )
    core = InferenceCore(repository)
    try:
        repository.start()
    finally:
        core.stop(5.0)

    assert told
    assert {(model, total) for model, _, total in told} == {(NAME, told[0][2])}
    assert told[-1][1] == told[-1][2] > 0
