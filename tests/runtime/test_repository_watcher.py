"""Laws of the thread that looks."""

import threading
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import FakeFinder, Workshop, write_model

from penstock_runtime.repository.loader import Loader
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.repository import ModelRepository
from penstock_runtime.repository.watcher import Watcher


class Turnstile:
    """A wait that lets the watcher through `passes` times and then ends it."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.waited: list[float] = []
        self.done = threading.Event()

    def __call__(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.passes -= 1
        if self.passes < 0:
            self.done.set()
        return self.passes < 0


def test_a_look_follows_every_wait() -> None:
    """And none comes before the first."""
    turnstile = Turnstile(3)
    looks: list[int] = []
    watcher = Watcher(lambda: looks.append(len(turnstile.waited)), 15.0, turnstile)

    watcher.start()
    turnstile.done.wait()
    watcher.stop(10)

    assert looks == [1, 2, 3]
    assert turnstile.waited == [15.0] * 4
    assert watcher.looks == 3


def test_a_look_that_fails_is_logged_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The watcher does not die of it."""
    turnstile = Turnstile(3)

    def fail() -> None:
        raise OSError("the disk is on fire")

    watcher = Watcher(fail, 1.0, turnstile)

    watcher.start()
    turnstile.done.wait()
    watcher.stop(10)

    assert (watcher.looks, watcher.failures) == (3, 3)
    assert [str(r.exc_info[1]) for r in caplog.records if r.exc_info] == ["the disk is on fire"] * 3


def test_a_watcher_is_healthy_unless_its_thread_died() -> None:
    """Before its start and after its stop nobody expects one."""
    watcher = Watcher(lambda: None, 600.0)
    dead = Watcher(lambda: None, 1.0, Turnstile(0))

    states = [watcher.healthy]
    watcher.start()
    states.append(watcher.healthy)
    ended = watcher.stop(10)
    states.append(watcher.healthy)
    dead.start()
    assert dead._thread is not None
    dead._thread.join()

    assert states == [True, True, True]
    assert ended
    assert not dead.healthy


def test_a_watcher_is_started_once() -> None:
    """Two threads would see two different pasts."""
    watcher = Watcher(lambda: None, 600.0)
    watcher.start()

    with pytest.raises(RuntimeError, match="started once"):
        watcher.start()

    watcher.stop(10)


def test_a_polling_repository_finds_a_new_model_by_itself(tmp_path: Path) -> None:
    """With real threads and a real clock."""
    write_model(tmp_path, "m")
    options = RepositoryOptions((tmp_path,), ControlMode.POLL, poll_seconds=0.01)
    repository = ModelRepository(options, Loader(FakeFinder(), Workshop()))
    repository.start()
    found = threading.Event()
    repository.subscribe(lambda: found.set() if len(repository.models()) == 2 else None)

    write_model(tmp_path, "n")

    assert found.wait(30)
    repository.stop(10)
