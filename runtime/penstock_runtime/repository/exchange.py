"""The one path by which a name gets a new meaning: build, publish at once, retire what was there.

Calls for one name must come one at a time (the repository sees to that); calls for different names
may overlap. A failure before publishing leaves what serves as it is.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Generic

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument, Unavailable
from penstock_runtime.repository.background import Retirement
from penstock_runtime.repository.dependencies import in_waves
from penstock_runtime.repository.generation import (
    Generation,
    LoadFailed,
    Member,
    PollFailed,
    assemble,
    discard,
)
from penstock_runtime.repository.index import ModelFolder
from penstock_runtime.repository.lifecycle import UNLOADED, WHOLE_MODEL, Lifecycle, ModelState
from penstock_runtime.repository.loader import Loader, ModelT, select_versions, short_reason
from penstock_runtime.repository.overrides import OverrideFolder
from penstock_runtime.repository.roots import RepositoryRoots
from penstock_runtime.repository.routes import Routes

_log = logging.getLogger("penstock.repository")


class Exchange(Generic[ModelT]):
    """Holds the generations that serve, and replaces them."""

    def __init__(
        self,
        loader: Loader[ModelT],
        roots: RepositoryRoots,
        lifecycle: Lifecycle,
        *,
        drain_timeout_s: float,
        load_retries: int = 0,
        check: Callable[[ModelConfig], None] | None = None,
    ) -> None:
        self.routes: Routes[ModelT] = Routes(lifecycle)
        self._loader = loader
        self._roots = roots
        self._lifecycle = lifecycle
        self._retries = load_retries
        self._check = check
        self._drain_timeout_s = drain_timeout_s
        self._retirement = Retirement(drain_timeout_s)
        self._lock = threading.Lock()
        self._generations: dict[str, Generation[ModelT]] = {}
        self._closed = False

    def serving(self, name: str) -> Generation[ModelT] | None:
        """What the name stands for now; None when it does not serve."""
        return self._generations.get(name)

    def parts(self, name: str) -> tuple[str, ...]:
        """The models that what serves under a name is made of."""
        found = self._generations.get(name)
        return () if found is None else found.steps

    def is_part(self, name: str) -> bool:
        """Whether an ensemble that serves is made of it."""
        with self._lock:
            return any(name in other.steps for other in self._generations.values())

    def bring_in(
        self,
        folder: ModelFolder,
        config_json: str | None = None,
        home: OverrideFolder | None = None,
    ) -> None:
        """Load what the folder holds and let the name stand for it.

        `home` then belongs to the new generation; it is closed if there will be none. PollFailed or
        LoadFailed say what was wrong; whatever served before still does.
        """
        try:
            self._replace(folder, config_json, home)
        except BaseException as error:
            if home is not None:
                home.close()
            if isinstance(error, PollFailed | LoadFailed):
                self._note_failure(folder.name, error.reasons, remember=self._is_kept(folder, home))
            raise

    def examine(
        self,
        folder: ModelFolder,
        config_json: str | None = None,
        others: Mapping[str, ModelConfig] = MappingProxyType({}),
    ) -> ModelConfig:
        """The complete configuration of what `bring_in` would load; nothing is changed, and nothing
        loaded. PollFailed or LoadFailed say what would be wrong; `others` are configurations of
        models that do not serve, but would.
        """
        config, versions = self._plan(folder, config_json)
        reasons: dict[int, str] = {}
        for version in versions:
            try:
                complete = self._loader.examine(folder, config, version, others)
            # A model's own code may be run here, and it may well call sys.exit().
            except (Exception, SystemExit) as error:
                reasons[version] = short_reason(error)
        if reasons:
            raise LoadFailed(folder.name, reasons)
        return complete

    def take_out(self, name: str, *, wait: bool = False) -> tuple[str, ...]:
        """Let the name stand for nothing; requests under way are answered in the background.

        Returns the names of the models that it, as an ensemble, was made of; with `wait` not before
        it needs them no longer.
        """
        old = self._swap(name, Generation())
        for version, status in self._lifecycle.versions(name).items():
            if version not in old.members and not status.at_rest:
                self._lifecycle.set(name, version, ModelState.UNAVAILABLE, UNLOADED)
        keep = old.home is None or self._roots.find(name) is not None
        leaving = self._retire(name, old, Generation(), keep_entries=keep)
        if wait and old.steps and leaving is not None:
            leaving.join(self._drain_timeout_s)
        return old.steps

    def close(self, timeout_s: float) -> bool:
        """Take out everything, publish nothing more, and wait for the drains; False if time ran
        out.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._closed = True
            made_of = {name: old.steps for name, old in self._generations.items()}
        # Ensembles first: they answer with what they are made of.
        for wave in reversed(in_waves(made_of)):
            left_s = max(0.0, deadline - time.monotonic())
            for name in wave:
                old = self._swap(name, Generation())
                self._retire(name, old, Generation(), keep_entries=True, timeout_s=left_s)
            if any(made_of[name] for name in wave):
                self._retirement.join(left_s)
        return self._retirement.join(max(0.0, deadline - time.monotonic()))

    # -- the way in ------------------------------------------------------------------------------

    def _replace(
        self, folder: ModelFolder, config_json: str | None, home: OverrideFolder | None
    ) -> None:
        name = folder.name
        old = self._generations.get(name, Generation())
        config, versions = self._plan(folder, config_json)
        for version in versions:
            if version not in old.members:
                self._lifecycle.set(name, version, ModelState.LOADING)
        self._lifecycle.forget(name, WHOLE_MODEL)
        members = assemble(self._loader, folder, config, versions, old, self._retries)
        new = Generation(members, home)
        try:
            self._check_unchanged(folder, versions)
            self._swap(name, new)
        except BaseException:
            discard(members, old)
            raise
        new = self._settle(name, new)
        self._show_ready(folder, members, old)
        self._retire(name, old, new, keep_entries=True)

    def _plan(
        self, folder: ModelFolder, config_json: str | None
    ) -> tuple[ModelConfig, tuple[int, ...]]:
        """What to load, or the error that says why that cannot be told."""
        name = folder.name
        try:
            if folder.problem:
                raise InvalidArgument(folder.problem)
            config = self._loader.read(folder, config_json)
            if self._check is not None:
                self._check(config)
            versions = select_versions(config, folder)
            if not versions:
                raise InvalidArgument("there is no version that the version policy serves")
        except Exception as error:
            what = "failed" if config_json is None else "failed, Invalid config override"
            _log.error("model '%s': load %s: %s", name, what, error)
            reason = short_reason(error)
            if config_json is None and folder.versions and not folder.problem:
                raise LoadFailed(name, {folder.versions[-1]: reason}) from error
            raise PollFailed(name, reason) from error
        return config, versions

    def _check_unchanged(self, folder: ModelFolder, versions: tuple[int, ...]) -> None:
        """Refuse what was made of files that changed meanwhile; new files may be the model's."""
        now = self._roots.again(folder)
        if now is None or not set(folder.signature) <= set(now.signature):
            reason = "the model's files changed while it was being loaded"
            raise LoadFailed(folder.name, dict.fromkeys(versions, reason))

    def _swap(self, name: str, new: Generation[ModelT]) -> Generation[ModelT]:
        with self._lock:
            if self._closed and new.members:
                raise Unavailable("the server is shutting down and loads no more models")
            old = self._generations.pop(name, Generation())
            if new.members:
                self._generations[name] = new
            self.routes.publish(name, new.models)
        return old

    def _settle(self, name: str, new: Generation[ModelT]) -> Generation[ModelT]:
        """Make the changes of models that went on serving final, now that they are published."""
        members = {version: member.settled() for version, member in new.members.items()}
        settled = Generation(members, new.home)
        with self._lock:
            if self._generations.get(name) is new:
                self._generations[name] = settled
        return settled

    # -- the index -------------------------------------------------------------------------------

    def _show_ready(
        self, folder: ModelFolder, members: Mapping[int, Member[ModelT]], old: Generation[ModelT]
    ) -> None:
        known = self._lifecycle.versions(folder.name)
        for version in members:
            status = known.get(version)
            if status is None or (status.state, status.reason) != (ModelState.READY, ""):
                self._lifecycle.set(folder.name, version, ModelState.READY)
        for version, status in known.items():
            unloaded_on_disk = status.at_rest and version in folder.versions
            leaving = version in old.members or status.state is ModelState.UNLOADING
            if version not in members and not leaving and not unloaded_on_disk:
                self._lifecycle.forget(folder.name, version)

    def _is_kept(self, folder: ModelFolder, home: OverrideFolder | None) -> bool:
        """Whether the index goes on listing a model that failed; the names of callers' files must
        not fill it.
        """
        name = folder.name
        return home is None or name in self._generations or self._roots.find(name) is not None

    def _note_failure(self, name: str, reasons: Mapping[int, str], *, remember: bool) -> None:
        if not remember:
            for version in self._lifecycle.versions(name):
                self._lifecycle.forget(name, version)
            return
        old = self._generations.get(name, Generation())
        for version, status in self._lifecycle.versions(name).items():
            if status.state is ModelState.LOADING and version not in reasons:
                other = "not loaded, because another version of the model failed to load"
                self._lifecycle.set(name, version, ModelState.UNAVAILABLE, other)
        for version, reason in reasons.items():
            whole = version == WHOLE_MODEL and old.members
            for shown in sorted(old.members) if whole else [version]:
                if shown in old.members:
                    text = f"reload failed, the version loaded before serves: {reason}"
                    self._lifecycle.set(name, shown, ModelState.READY, text)
                else:
                    self._lifecycle.set(name, shown, ModelState.UNAVAILABLE, reason)

    # -- the way out -----------------------------------------------------------------------------

    def _retire(
        self,
        name: str,
        old: Generation[ModelT],
        new: Generation[ModelT],
        *,
        keep_entries: bool,
        timeout_s: float | None = None,
    ) -> threading.Thread | None:
        leaving = [m for v, m in old.models.items() if m is not new.models.get(v)]
        gone = [version for version in old.members if version not in new.members]
        stamps = {v: self._lifecycle.set(name, v, ModelState.UNLOADING) for v in gone}
        home = old.home if old.home is not new.home else None
        if not leaving and home is None:
            return None
        return self._retirement.retire(
            name,
            leaving,
            replaced=bool(new.members),
            then=self._after_retirement(name, stamps, home, keep_entries),
            timeout_s=timeout_s,
        )

    def _after_retirement(
        self, name: str, stamps: Mapping[int, int], home: OverrideFolder | None, keep: bool
    ) -> Callable[[], None]:
        def then() -> None:
            if home is not None:
                home.close()
            for version, stamp in stamps.items():
                state = ModelState.UNAVAILABLE
                if self._lifecycle.settle(name, version, stamp, state, UNLOADED) and not keep:
                    self._lifecycle.forget(name, version)

        return then

    def __repr__(self) -> str:
        return f"<Exchange {len(self._generations)} models serve, {len(self._retirement)} retire>"
