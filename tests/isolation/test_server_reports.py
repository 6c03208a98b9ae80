"""Laws of what the server makes of the reports of a language model's process: it tells them on,
writes them down, and ends who makes no sense.
"""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.folders import wait_for
from tests.isolation.test_hostile import FakeProcess, Scene

from penstock_runtime.dispatch import Dispatch
from penstock_runtime.isolation import life as life_module
from penstock_runtime.isolation.engine_notes import engine_note
from penstock_runtime.isolation.frames import Kind
from penstock_runtime.llm.calls import CallLog
from penstock_runtime.model_services import ModelServices
from penstock_runtime.model_services import Reading as Shown
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.engine_metrics import EngineBook, EngineState, EngineTally
from penstock_runtime.request import InferRequest
from penstock_runtime.warmup_task import WarmupTask


def busy() -> EngineTally:
    """What the process counts of an engine that has something in hand."""
    tally = EngineTally("m", 1, "m_0_0", {})
    tally.state = lambda: EngineState(running=1)
    return tally


@pytest.fixture(autouse=True)
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No life has a process."""
    monkeypatch.setattr(life_module, "Spawned", FakeProcess)


def served(calls: CallLog | None = None, reading: Shown | None = None) -> ModelServices:
    return ModelServices(
        Dispatch(), CustomMetrics(), engines=EngineBook(), calls=calls, reading=reading
    )


def sample(book: EngineBook, name: str) -> float:
    (family,) = [each for each in book.families() if each.name == f"penstock_llm_{name}"]
    return family.samples[0].value


def test_series_of_a_process_come_with_its_first_word_and_go_with_it() -> None:
    """Also where it says nothing more of its engine."""
    services, tally = served(), busy()
    scene = Scene(services)
    before = services.engines.families()

    scene.channel.send(Kind.ENGINE, 0, engine_note(tally.snapshot()))
    there = wait_for(lambda: bool(services.engines.families()))
    running = sample(services.engines, "num_requests_running")
    scene.end()

    assert before == []
    assert there
    assert running == 1
    assert wait_for(lambda: services.engines.families() == [])


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (Kind.ENGINE, {}),
        (Kind.ENGINE, {"counts": "many"}),
        (Kind.RECORDS, {"records": [], "lost": 0}),
        (Kind.READING, {"done": -1, "total": 5}),
    ],
)
def test_a_process_whose_reports_make_no_sense_is_ended(kind: Kind, note: dict[str, Any]) -> None:
    """Records too, where nobody keeps any."""
    scene = Scene(served())

    scene.channel.send(kind, 0, note)

    assert scene.ended.wait(10)
    scene.end()


def test_records_of_a_process_are_written_as_the_models_own_and_lost_ones_counted(
    tmp_path: Path,
) -> None:
    """And those that it had in hand when it ended, by the server."""
    path = tmp_path / "calls"
    log = CallLog(str(path), 1 << 20)
    services = served(log)
    scene = Scene(services)
    scene.channel.send(Kind.ENGINE, 0, engine_note(busy().snapshot()))
    scene.channel.send(
        Kind.RECORDS, 0, {"records": [{"time_ns": 5, "id": "a", "prompt": "secret"}], "lost": 3}
    )
    scene.tasks[0].add(WarmupTask(InferRequest("m", (), id="in hand"), {}))
    wait_for(lambda: log.stats().dropped == 3)

    scene.end()
    written = wait_for(lambda: log.stats().written == 2)
    log.close()

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert written
    assert [(line["model"], line["version"], line["id"], line["status"]) for line in lines] == [
        ("m", "1", "a", "OK"),
        ("m", "1", "in hand", "UNAVAILABLE"),
    ]
    assert "was ended by" in lines[1]["error"]
    assert "secret" not in path.read_text()


def test_a_process_that_generates_nothing_leaves_no_records(tmp_path: Path) -> None:
    """Its requests are no calls of a language model."""
    log = CallLog(str(tmp_path / "calls"), 1 << 20)
    scene = Scene(served(log))
    scene.tasks[0].add(WarmupTask(InferRequest("m", ()), {}))

    scene.end()
    wait_for(lambda: len(scene.tasks[0]) == 0)
    log.close()

    assert (tmp_path / "calls").read_text() == ""


def test_how_far_a_process_has_read_is_shown_and_never_waited_for() -> None:
    """The last that it said, if whoever shows it is slow."""
    shown: list[tuple[str, int, int]] = []
    slow = threading.Event()

    def show(model: str, done: int, total: int) -> None:
        shown.append((model, done, total))
        slow.wait(30)

    scene = Scene(served(reading=show))
    scene.channel.send(Kind.READING, 0, {"done": 0, "total": 100})
    wait_for(lambda: len(shown) == 1)
    for done in (10, 20, 500):
        scene.channel.send(Kind.READING, 0, {"done": done, "total": 100})
    scene.channel.send(Kind.LOG, 0, {"level": 20, "text": "all is heard"})
    process: Any = scene.life.process
    heard = wait_for(lambda: bool(process.told))
    slow.set()

    assert heard
    assert wait_for(lambda: shown[-1] == ("m", 100, 100))
    assert shown == [("m", 0, 100), ("m", 100, 100)]
    scene.end()
