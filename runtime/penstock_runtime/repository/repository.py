"""The model repository: which models serve, and the three ways in which that changes (at the start,
by looking at the files, by a caller's word), all on one path.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Generic

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unavailable
from penstock_runtime.repository.background import run_all
from penstock_runtime.repository.dependencies import Dependencies, MadeOf, affected, in_waves
from penstock_runtime.repository.exchange import Exchange
from penstock_runtime.repository.generation import LoadFailed, PollFailed
from penstock_runtime.repository.index import ModelFolder, read_folder
from penstock_runtime.repository.lifecycle import (
    WHOLE_MODEL,
    Lifecycle,
    ModelIndexEntry,
    ModelState,
    Turns,
)
from penstock_runtime.repository.loader import Loader, ModelT, short_reason
from penstock_runtime.repository.options import ALL_MODELS, ControlMode, RepositoryOptions
from penstock_runtime.repository.overrides import NO_OVERRIDES, LoadOverrides, OverrideFolder
from penstock_runtime.repository.roots import RepositoryRoots
from penstock_runtime.repository.routes import check_model_name, shown
from penstock_runtime.repository.stability import StabilityGate, settled
from penstock_runtime.repository.start_report import LoadProgress, StartReport
from penstock_runtime.repository.watcher import Watcher

_log = logging.getLogger("penstock.repository")


class ModelRepository(Generic[ModelT]):
    """Models by name and version, and the means to change them while they serve. Thread-safe.

    `clock` gives wall-clock nanoseconds (file times are wall-clock times), `wait` sleeps.
    """

    def __init__(
        self,
        options: RepositoryOptions,
        loader: Loader[ModelT],
        *,
        clock: Callable[[], int] = time.time_ns,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.options = options
        self.lifecycle = Lifecycle()
        self._roots = RepositoryRoots(
            options.roots,
            options.model_name,
            options.model_config_name,
            namespaces=options.namespaces,
        )
        self._dependencies = Dependencies(loader, self._roots)
        self._exchange = Exchange(
            loader,
            self._roots,
            self.lifecycle,
            check=self._dependencies.check,
            drain_timeout_s=options.drain_timeout_s,
            load_retries=options.load_retries,
        )
        self._turns = Turns()
        self._gate = StabilityGate(int(options.poll_seconds * 1e9))
        self._attempted: dict[str, ModelFolder] = {}
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._watcher = Watcher(self.poll, options.poll_seconds)
        self._clock = clock
        self._wait = wait if wait is not None else self._stopping.wait

    # -- what serves -----------------------------------------------------------------------------

    def get(self, name: str, version: str = "") -> ModelT:
        """The model that serves; `version` is "" for the highest one that does.

        NotFound, Unavailable or InvalidArgument say why there is none.
        """
        return self._exchange.routes.get(name, version)

    def models(self) -> list[ModelT]:
        """Every model that serves, by name and version."""
        return self._exchange.routes.models()

    def index(self, ready_only: bool = False) -> list[ModelIndexEntry]:
        """Every version with its state, and the models on disk that were never loaded."""
        entries = self.lifecycle.entries()
        if ready_only:
            return [entry for entry in entries if entry.state is ModelState.READY]
        never = self._roots.names() - {entry.name for entry in entries}
        entries += [ModelIndexEntry(name, "", ModelState.NEVER_LOADED) for name in never]
        return sorted(entries, key=lambda entry: (entry.name, int(entry.version or 0)))

    def ready(self) -> bool:
        """Whether the start is over and every selected model serves, or was unloaded on purpose."""
        return self._started.is_set() and all(map(self._is_fine, self.lifecycle.names()))

    @property
    def healthy(self) -> bool:
        """Whether the watcher lives and every model that serves can execute."""
        return self._watcher.healthy and all(model.healthy for model in self.models())

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from any thread, after every change of a state; the result ends that."""
        return self.lifecycle.subscribe(callback)

    def _is_fine(self, name: str) -> bool:
        serving = self._exchange.serving(name)
        if serving is not None:
            return all(model.healthy for model in serving.models.values())
        return all(status.at_rest for status in self.lifecycle.versions(name).values())

    # -- at the start ----------------------------------------------------------------------------

    def start(
        self, progress: Callable[[LoadProgress], None] | None = None
    ) -> tuple[LoadProgress, ...]:
        """Load what the mode selects and return those that failed, by name.

        `progress` is told of every model, from any thread. FailedPrecondition when a root is not
        there.
        """
        self._roots.check()
        waves = self._dependencies.at_start(self._selected())
        for name in sorted(chain.from_iterable(waves)):
            self.lifecycle.set(name, WHOLE_MODEL, ModelState.LOADING)
        report = StartReport(sum(map(len, waves)), progress)
        for wave in waves:
            jobs = [partial(self._start_one, name, report) for name in wave]
            run_all(jobs, self.options.load_threads, self._stopping)
        if not self._stopping.is_set():
            self._started.set()
            if self.options.control_mode is ControlMode.POLL:
                self._watcher.start()
        return report.failures()

    def _selected(self) -> list[str]:
        chosen = set(self.options.startup_models) - {ALL_MODELS}
        for name in chosen:
            check_model_name(name)
        explicit = self.options.control_mode is ControlMode.EXPLICIT
        if not explicit or ALL_MODELS in self.options.startup_models:
            chosen |= self._roots.names()
        return sorted(chosen)

    def _start_one(self, name: str, report: StartReport) -> None:
        began = time.monotonic()
        reason = ""
        try:
            with self._turns.take(name):
                folder = self._settled(name, self.options.settle_seconds)
                if folder is None:
                    reason = "the model is not in the model repository"
                    self.lifecycle.set(name, WHOLE_MODEL, ModelState.UNAVAILABLE, reason)
                else:
                    self._attempt(folder)
        except Exception as error:
            reason = short_reason(error)
        report.done(name, time.monotonic() - began, reason)

    # -- by a caller's word ----------------------------------------------------------------------

    def load(self, name: str, overrides: LoadOverrides = NO_OVERRIDES) -> None:
        """Load or reload; returns once the new versions serve, and the old ones drain. A dry run
        only says what would prevent that.

        Unavailable outside the explicit mode; InvalidArgument or Internal say why it failed, and
        then what served before still does. What an ensemble is made of is loaded before it, as far
        as it does not serve.
        """
        self._check_call(name)
        if overrides.dry_run:
            self._examine(name, overrides)
            return
        self._load_parts(name, overrides.config_json)
        with self._turns.take(name):
            _check_lengths(name, overrides)
            if overrides.files:
                self._load_files(name, overrides)
                return
            self._load_one(name, overrides.config_json)

    def _examine(self, name: str, overrides: LoadOverrides) -> None:
        """Raise what would prevent this load."""
        others: dict[str, ModelConfig] = {}
        for part in self._dependencies.below(name, overrides.config_json):
            if self._exchange.serving(part) is None:
                others[part] = self._exchange.examine(self._found(part), None, others)
        _check_lengths(name, overrides)
        if not overrides.files:
            self._exchange.examine(self._found(name), overrides.config_json, others)
            return
        home = OverrideFolder(overrides.files)
        try:
            folder = read_folder(home.path, home.path, name)
            self._exchange.examine(folder, overrides.config_json, others)
        finally:
            home.close()

    def parts(self, name: str, config_json: str | None = None) -> Sequence[str]:
        """What the model, an ensemble, is made of, directly or not, as far as it is there."""
        check_model_name(name)
        return self._dependencies.below(name, config_json)

    def _load_parts(self, name: str, config_json: str | None) -> None:
        for part in self._dependencies.below(name, config_json):
            try:
                with self._turns.take(part):
                    if self._exchange.serving(part) is None:
                        self._load_one(part)
            except (LoadFailed, PollFailed) as error:
                # The ensemble will say that it is missing.
                _log.error("%s", error)

    def _load_one(self, name: str, config_json: str | None = None) -> None:
        self._attempt(self._found(name), config_json)

    def _found(self, name: str) -> ModelFolder:
        folder = self._settled(name, self.options.load_settle_seconds)
        if folder is None:
            _log.error("model '%s': load failed, it is not in the model repository", shown(name))
            raise PollFailed(name, "the model is not in the model repository")
        return folder

    def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Take the model out of service; requests under way are still answered.

        Nothing happens to a model that does not serve. With `unload_dependents` the models that an
        ensemble is made of go too, once it has answered, and if no other ensemble is made of them.
        """
        self._check_call(name)
        with self._turns.take(name):
            parts = self._exchange.take_out(name, wait=unload_dependents)
        for part in parts if unload_dependents else ():
            if not self._exchange.is_part(part):
                self.unload(part, unload_dependents)

    def _check_call(self, name: str) -> None:
        if self.options.control_mode is not ControlMode.EXPLICIT:
            raise Unavailable(
                "explicit model load / unload is not allowed if polling is enabled",
                reason="MODEL_CONTROL_DISABLED",
            )
        check_model_name(name)

    def _load_files(self, name: str, overrides: LoadOverrides) -> None:
        home = OverrideFolder(overrides.files)
        folder = read_folder(home.path, home.path, name)
        self._exchange.bring_in(folder, overrides.config_json, home)

    # -- by looking at the files -----------------------------------------------------------------

    def poll(self) -> None:
        """One look: load what is new or changed and stable, take out what is gone for good."""
        view = self._roots.look()
        now = self._clock()
        stable = [f for f in view.folders.values() if self._gate.admits(f, now)]
        known = [n for n, f in list(self._attempted.items()) if f.repository not in view.unseen]
        gone = self._gate.gone(known, view.folders)
        for wave in in_waves(self._due(stable)):
            jobs = [partial(self._poll_one, view.folders[name]) for name in wave]
            run_all(jobs, self.options.load_threads, self._stopping)
        for wave in reversed(in_waves({name: self._exchange.parts(name) for name in gone})):
            jobs = [partial(self._poll_gone, name) for name in wave]
            run_all(jobs, self.options.load_threads, self._stopping)

    def _due(self, stable: Sequence[ModelFolder]) -> MadeOf:
        """What to load, and what that is made of: whatever is new, and ensembles that do not serve
        and have a part that is.
        """
        parts = self._dependencies.of_folder
        news = {folder.name: parts(folder) for folder in stable if self._is_news(folder)}
        idle = [f for f in stable if f.name not in news and self._exchange.serving(f.name) is None]
        waiting = {folder.name: parts(folder) for folder in idle} if news else {}
        return news | {name: waiting[name] for name in affected(news, waiting)}

    def _is_news(self, folder: ModelFolder) -> bool:
        before = self._attempted.get(folder.name)
        return before is None or before.identity != folder.identity or before.root != folder.root

    def _poll_one(self, folder: ModelFolder) -> None:
        with self._turns.take(folder.name):
            try:
                self._attempt(folder)
            except (LoadFailed, PollFailed) as error:
                _log.error("%s", error)

    def _poll_gone(self, name: str) -> None:
        with self._turns.take(name):
            _log.info("model '%s' is gone from the model repository", name)
            self._attempted.pop(name, None)
            self._exchange.take_out(name, wait=True)

    # -- common to all ---------------------------------------------------------------------------

    def _settled(self, name: str, quiet_s: float) -> ModelFolder | None:
        return settled(partial(self._roots.find, name), quiet_s, self._clock, self._wait)

    def _attempt(self, folder: ModelFolder, config_json: str | None = None) -> None:
        self._attempted[folder.name] = folder
        self._exchange.bring_in(folder, config_json)

    def stop(self, timeout_s: float) -> None:
        """Load nothing more, drain and stop everything; returns after `timeout_s` at the latest."""
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        self._watcher.stop(timeout_s)
        if not self._exchange.close(max(0.0, deadline - time.monotonic())):
            _log.warning("some models did not end within %.1f s and are left behind", timeout_s)

    def __repr__(self) -> str:
        return f"<ModelRepository {self.options.control_mode.value}, {self._exchange!r}>"


def _check_lengths(name: str, overrides: LoadOverrides) -> None:
    if overrides.overlong is not None:
        _log.error("model '%s': an override file has too long a name", name)
        raise PollFailed(name, "an override file has too long a name")
