"""Fakes at the seams of the repository: models that are one text file, and a clock that is set."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock_runtime.backends.base import Backend, LoadedModel, ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.loader import Loader
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.repository import ModelRepository

HOUR_NS = 3600 * 10**9
ALL_VERSIONS = '{"version_policy": {"all": {}}}'


class FakeBackend:
    """Recognises everything and adds nothing."""

    name = "fake"
    uses_gpu = False

    def recognises(self, source: ModelSource) -> bool:
        return True

    def complete(self, source: ModelSource) -> ModelConfig:
        return source.config

    def load(self, source: ModelSource) -> LoadedModel:
        raise NotImplementedError


class FakeFinder:
    """Finds the one fake backend, or refuses a configuration that names another."""

    def find(self, source: ModelSource) -> Backend:
        if source.config.backend not in ("", "fake"):
            raise InvalidArgument(f"unknown backend '{source.config.backend}'")
        return FakeBackend()


class FakeModel:
    """What `model.txt` said when it was loaded; `drain` lasts until `may_drain` is set."""

    def __init__(self, source: ModelSource, text: str, workshop: "Workshop") -> None:
        self.source = source
        self.config = source.config
        self.version = source.version
        self.text = text
        self.healthy = True
        self.drained = threading.Event()
        self.may_drain = threading.Event()
        self.may_drain.set()
        self.stopped = threading.Event()
        self.after: list[Callable[[], None]] = []
        self._workshop = workshop

    def memory_bytes(self) -> Mapping[str, int]:
        return {"cpu": 3 << 20}

    def drain(self, timeout_s: float) -> bool:
        ended = self.may_drain.wait(timeout_s)
        self.drained.set()
        return ended

    def stop(self) -> None:
        self._workshop.alive.discard(self)
        self.stopped.set()
        for callback in self.after:
            callback()

    def on_stopped(self, callback: Callable[[], None]) -> None:
        self.after.append(callback)


class Workshop:
    """Starts fake models and keeps the account of those that were never stopped.

    A text that begins with "corrupt" does not load; `during` runs in the middle of each load.
    """

    def __init__(self) -> None:
        self.alive: set[FakeModel] = set()
        self.started: list[tuple[str, int, str]] = []
        self.during: Callable[[ModelSource], None] = lambda source: None

    def __call__(self, source: ModelSource, backend: Backend) -> FakeModel:
        text = (source.directory / "model.txt").read_text()
        self.during(source)
        if text.startswith("corrupt"):
            raise InvalidArgument(f"the weights in {source.directory}/model.txt are {text}")
        model = FakeModel(source, text, self)
        self.alive.add(model)
        self.started.append((source.config.name, source.version, text))
        return model


class Clock:
    """Wall-clock time, moved by `ahead_ns`: an hour ahead every file looks old."""

    def __init__(self, ahead_ns: int = HOUR_NS) -> None:
        self.ahead_ns = ahead_ns
        self.waits: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns

    def wait(self, seconds: float) -> None:
        """Sleep without sleeping."""
        self.waits.append(seconds)
        self.meanwhile()


def write_model(
    root: Path, name: str, texts: Mapping[int, str] | None = None, config: str | None = None
) -> Path:
    """A model's folder with one text per version, and a config.json if there is one."""
    folder = root / name
    for version, text in (texts or {1: "one"}).items():
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        (folder / str(version) / "model.txt").write_text(text)
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


def make_repository(
    workshop: Workshop,
    *roots: Path,
    mode: ControlMode = ControlMode.EXPLICIT,
    clock: Clock | None = None,
    startup: tuple[str, ...] = (),
    retries: int = 0,
    model_name: str = "",
    drain_timeout_s: float = 10.0,
) -> ModelRepository[FakeModel]:
    """A repository of fake models that never sleeps; it is polled by hand only."""
    time_ = clock if clock is not None else Clock()
    options = RepositoryOptions(
        roots=roots,
        control_mode=mode,
        poll_seconds=15.0 if mode is not ControlMode.POLL else 600.0,
        startup_models=startup,
        load_retries=retries,
        model_name=model_name,
        drain_timeout_s=drain_timeout_s,
    )
    loader = Loader(FakeFinder(), workshop)
    return ModelRepository(options, loader, clock=time_, wait=time_.wait)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; the test's own time limit ends what never happens."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.002)


def state(repository: ModelRepository[FakeModel], name: str) -> dict[str, tuple[str, str]]:
    """What the index says of one model: state and reason by version."""
    return {e.version: (e.state.value, e.reason) for e in repository.index() if e.name == name}
