"""A process that says anything at all: the server answers for it, and goes on."""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.isolation.folders import wait_for
from tests.isolation.test_messages import JSON

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.errors import InstanceDied, PenstockError
from penstock_runtime.isolation import life as module
from penstock_runtime.isolation.desk import ServerDesk
from penstock_runtime.isolation.frames import Channel, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.settings import Settings
from penstock_runtime.isolation.tasks import OpenTasks
from penstock_runtime.model_services import ModelServices
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.request import InferRequest
from penstock_runtime.warmup_task import WarmupTask


class FakeProcess:
    """In place of a process: the test holds the other end."""

    def __init__(self, _name: str, on_end: Callable[[str], None]) -> None:
        self.link, self.theirs = socket.socketpair()
        self.pid = 1
        self.told: list[str] = []
        self._on_end = on_end
        self._gone = threading.Event()

    def set_patience(self, seconds: float) -> None:
        """Nobody is that slow."""

    def signal(self, number: int) -> None:
        """It ends."""
        if not self._gone.is_set():
            self._gone.set()
            with suppress(OSError):
                self.theirs.shutdown(socket.SHUT_RDWR)
            self.theirs.close()
            thread = threading.Thread(target=self._on_end, args=(f"was ended by {number}",))
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended."""
        return self._gone.wait(timeout_s)

    def tell(self, level: int, text: str) -> None:
        """A line for the log."""
        self.told.append(f"{level} {text}")


class Scene:
    """A life, and the other end of it."""

    def __init__(self, services: ModelServices | None = None) -> None:
        services = services or ModelServices(Dispatch(), CustomMetrics())
        config = ModelConfig(name="m")
        source = ModelSource(config, 1, Path("/r/m/1"), Path("/r/m"), services=services)
        self.tasks: list[OpenTasks] = []
        self.ended = threading.Event()

        def desk(life: Life) -> ServerDesk:
            self.tasks.append(OpenTasks(life))
            return ServerDesk(life, self.tasks[0], self, source, "m_0_0")

        self.life = Life("m", "m_0_0", Settings(memory_bytes=1 << 20), desk, self.ended.set)
        process: Any = self.life.process
        self.channel = Channel(process.theirs, takes_fds=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """What the server says is of no interest, but must not fill the socket."""
        try:
            while self.channel.receive() is not None:
                continue
        except OSError:
            return

    def end(self) -> None:
        """End it all."""
        self.life.accuse("was ended by the test")
        assert self.ended.wait(10)
        self._reader.join(10)


class Defects(logging.Handler):
    """What went wrong in a way that nobody had thought of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))

    def __enter__(self) -> Self:
        logging.getLogger("penstock.model").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("penstock.model").removeHandler(self)


@pytest.fixture(autouse=True)
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No life has a process."""
    monkeypatch.setattr(module, "Spawned", FakeProcess)


KEYS = st.sampled_from(
    [
        *("tensors", "block", "free", "size", "level", "text", "what", "handle", "value", "error"),
        *("name", "version", "graph", "targets", "kind", "labels", "bounds", "help", "request"),
        *("types", "count", "parameters", "last", "files", "config", "ready"),
        *("counts", "reasons", "histograms", "totals", "now", "cache", "gone"),
        *("records", "lost", "done", "total"),
    ]
)
WORDS = st.sampled_from(["find", "begin", "declare", "metric", "value", "load", "end", "waits"])
NOTES = st.dictionaries(KEYS, JSON | WORDS | st.lists(st.integers(0, 100), max_size=3), max_size=5)
FRAMES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 4), NOTES, st.binary(max_size=40)), max_size=6
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES)
def test_whatever_a_process_says_its_requests_are_answered_and_nothing_breaks(
    frames: list[tuple[Kind, int, dict[str, Any], bytes]],
) -> None:
    """It is believed as far as it makes sense, else it is ended; a question ends with an answer or
    an error, and so does a task.
    """
    scene = Scene()
    scene.tasks[0].add(WarmupTask(InferRequest("m", ()), {}))
    outcome: list[Any] = []

    def ask() -> None:
        try:
            with scene.life.question() as question:
                question.ask(Kind.EXECUTE, {}, {"x": np.zeros(4)})
                outcome.append(question.arrays(question.answer(lambda: None)))
        except PenstockError as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    with Defects() as defects:
        asking.start()
        for kind, where, note, data in frames:
            try:
                scene.channel.send(kind, where, note, (data,))
            except OSError:
                break
        scene.channel.shut()
        asking.join(10)
        scene.end()

    assert not asking.is_alive()
    assert len(outcome) == 1
    assert wait_for(lambda: len(scene.tasks[0]) == 0)
    assert defects.found == []


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_bytes_that_are_no_frames_end_the_process(raw: bytes) -> None:
    """Whatever bytes they are."""
    scene = Scene()
    process: Any = scene.life.process

    process.theirs.sendall(raw)
    scene.channel.shut()

    assert scene.ended.wait(10)
    assert not scene.life.alive
    scene.end()


def test_a_process_that_breaks_the_protocol_is_ended_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says what it did; whoever waits for it gets InstanceDied."""
    scene = Scene()
    task = WarmupTask(InferRequest("m", ()), {})
    scene.tasks[0].add(task)

    with caplog.at_level(logging.ERROR, "penstock.model"):
        scene.channel.send(Kind.FREE, 0, {"free": [[1, 0]]})
        ended = scene.ended.wait(10)

    with pytest.raises(InstanceDied, match="broke the protocol"):
        task.wait(10)
    assert ended
    assert "a block is given back that was not lent" in caplog.text
    scene.end()


def test_an_answer_outside_of_shared_memory_is_no_answer() -> None:
    """Where nothing lies, nothing is read."""
    scene = Scene()
    with scene.life.question() as question:
        question.ask(Kind.EXECUTE, {})
        note = {"tensors": [["y", "UINT8", [9], 0, 9]], "block": [1, 0, 9]}
        scene.channel.send(Kind.RESULT, question.number, note)
        frame = question.answer(lambda: None)

        with pytest.raises(InstanceDied, match="does not lie in the memory"):
            question.arrays(frame)
    scene.end()


def test_answers_that_nobody_waits_for_are_let_go_of(caplog: pytest.LogCaptureFixture) -> None:
    """A late answer gives its memory back, and does no harm."""
    scene = Scene()
    scene.channel.send(Kind.RESULT, 77, {"tensors": [["y", "UINT8", [1], 0, 1]]}, (b"1",))
    scene.channel.send(Kind.LOG, 0, {"level": 20, "text": "still here"})
    process: Any = scene.life.process

    heard = wait_for(lambda: bool(process.told))

    assert heard
    assert scene.life.alive
    assert caplog.text == ""
    scene.end()
