"""What a server says of its queues, and of the batches that a goal led to, in every way it can."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options

from penstock.client.sync import Client

CODE = """
import threading
from penstock import FP32, model

gate = threading.Event()
entered = threading.Event()


@model(max_batch_size=4)
def held(X: FP32[1]) -> FP32[1].named("Y"):
    entered.set()
    gate.wait(20)
    return X
"""
CONFIG = """
max_batch_size: 4
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
}
"""
TUNED = """
from penstock import FP32, model


@model(max_batch_size=16)
def tuned(X: FP32[1]) -> FP32[1].named("Y"):
    return X
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model that is held at will, with two priorities, and one with a goal."""
    root = tmp_path_factory.mktemp("queues")
    write(root, "held", CODE, CONFIG)
    write(root, "tuned", TUNED, "dynamic_batching { slo_p99_ms: 50 }")
    with ServerThread(options([root])) as made:
        yield made


def write(root: Path, name: str, code: str, config: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(code)
    (root / name / "config.pbtxt").write_text(config)


def document(running: Running) -> dict[str, Any]:
    address = f"http://127.0.0.1:{running.metrics_port}/queues"
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        found = json.loads(answer.read())
    return {queue["model"]: queue for queue in found["queues"]}


def metrics(running: Running) -> dict[str, float]:
    address = f"http://127.0.0.1:{running.metrics_port}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def of(running: Running, name: str) -> Any:
    """The model's own module, to hold and to let go."""
    model = running.server.core.model(name)
    return model._loaded._target.__globals__  # type: ignore[attr-defined]


def inputs() -> list[Any]:
    tensor = triton.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    return [tensor]


def test_what_waits_is_told_by_priority(running: Running) -> None:
    """By JSON, by metrics and by ModelStatistics, alike."""
    shared = of(running, "held")
    with triton.InferenceServerClient(running.target) as client:
        answers: list[Any] = []

        def send(priority: int) -> None:
            client.async_infer(
                "held", inputs(), lambda result, error: answers.append(error), priority=priority
            )

        try:
            send(1)
            assert shared["entered"].wait(10)
            for priority in (1, 2, 2):
                send(priority)
            while running.server.core.model("held").queue_stats().requests < 3:
                pass

            levels = document(running)["held"]["levels"]
            told = metrics(running)
            with Client(running.target) as ours:
                (statistics,) = ours.statistics("held")
        finally:
            shared["gate"].set()
        while len(answers) < 4:
            pass

    assert [(x["priority"], x["requests"], x["rows"]) for x in levels] == [(1, 1, 1), (2, 2, 2)]
    assert all(level["oldest_age_ms"] > 0 for level in levels)
    labels = '{model="held",priority="2",version="1"}'
    assert told[f"penstock_queue_level_requests{labels}"] == 2
    assert told[f"penstock_queue_level_oldest_age_seconds{labels}"] > 0
    assert f"penstock_queue_level_predicted_wait_seconds{labels}" in told
    assert [(q.priority, q.requests) for q in statistics.queue] == [(1, 1), (2, 2)]
    assert answers == [None] * 4


def test_a_goal_explains_what_it_led_to(running: Running) -> None:
    """In words and in numbers, and a client of Triton reads the rest as ever."""
    with triton.InferenceServerClient(running.target) as client:
        sent = 0
        while "too few" in (batching := document(running)["tuned"]["batching"])["reason"]:
            client.infer("tuned", inputs())
            sent += 1
        counts = client.get_inference_statistics("tuned").model_stats[0]
    with Client(running.target) as ours:
        (statistics,) = ours.statistics("tuned")

    assert counts.inference_count == sent
    assert batching["goal_ms"] == 50
    assert 1 <= batching["size"] <= batching["limit"] <= 16
    assert batching["keeps_goal"]
    assert "rows/s" in batching["reason"]
    assert [size["rows"] for size in batching["sizes"]] == [1, 2, 4, 8, 16]
    assert statistics.batch_choice.goal_ns == 50_000_000
    assert statistics.batch_choice.reason
    assert metrics(running)['penstock_batch_goal_kept{model="tuned",version="1"}'] == 1


def test_a_model_without_a_goal_has_nothing_to_explain(running: Running) -> None:
    """Its rules are Triton's."""
    assert "batching" not in document(running)["held"]


def test_a_goal_in_a_configuration_is_kept_in_it(running: Running) -> None:
    """As is every field that only this server knows."""
    with Client(running.target) as client:
        config = client.model_config("tuned")

    assert config.dynamic_batching.slo_p99_ms == 50
