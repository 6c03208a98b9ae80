"""From a folder to a model in memory: the configuration is read, completed by the backend, put in
its normal form, checked, and handed to whatever starts models.

Knows neither what a backend does nor what is served at the moment.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from penstock_runtime.backends.base import Backend, ModelSource
from penstock_runtime.config import InstanceGroup, ModelConfig
from penstock_runtime.config_check import check, normalise
from penstock_runtime.config_reader import parse_json, parse_yaml
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.repository.agents import Agents
from penstock_runtime.repository.index import ModelFolder

_log = logging.getLogger("penstock.repository")

MAX_CONFIG_BYTES = 4 << 20
MAX_REASON = 300

# A path that does not go on a word (so not FP16/FP32); its last component may be told.
_PATH = re.compile(r"(?<![\w.~])(?:~|\.{1,2})?/(?:[^\s/'\"<>:,;]+/)*([^\s/'\"<>:,;]+)")

ConfigParser = Callable[[bytes], ModelConfig]


class LoadableModel(Protocol):
    """What the repository must know of a model that it loads and retires."""

    @property
    def config(self) -> ModelConfig:
        """The complete configuration."""

    @property
    def version(self) -> int:
        """The version that is loaded."""

    @property
    def healthy(self) -> bool:
        """Whether it can execute."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held per device, as far as anyone knows."""

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more and wait until all is answered; False if time ran out."""

    def stop(self) -> None:
        """End the threads and give the memory back."""

    def on_stopped(self, callback: Callable[[], None]) -> None:
        """Call this at the end of `stop`."""


class Prepared(Protocol):
    """A change of a model that serves; it is settled once it is published, or else undone."""

    def settle(self) -> None:
        """Make it final."""

    def undo(self) -> None:
        """Let it never have been."""


@runtime_checkable
class Regroupable(Protocol):
    """A model whose instances may change while it serves."""

    def regroup(self, config: ModelConfig) -> Prepared | None:
        """Prepare for a configuration that differs in instance groups only; None where it takes a
        reload.
        """


class BackendFinder(Protocol):
    """Knows the backends there are."""

    def find(self, source: ModelSource) -> Backend:
        """The backend for this model; raises InvalidArgument when none fits."""


ModelT = TypeVar("ModelT", bound=LoadableModel)
Examiner = Callable[[ModelSource, Backend, Mapping[str, ModelConfig]], None]
"""Raises what would prevent a load; the configurations are of models that do not serve yet."""


def _anything(_source: ModelSource, _backend: Backend, _others: Mapping[str, ModelConfig]) -> None:
    return


class Loader(Generic[ModelT]):
    """Reads configurations and builds models.

    `starter` makes the model and returns when it is warm, `examiner` says beforehand what would
    prevent that; `parsers` are by configuration file name
    and add to JSON and YAML, which are understood without; `allow_pickle` names the models ("*" for
    all) whose weights may be pickles. With `complete` off no model is asked what its configuration
    leaves open.
    """

    def __init__(
        self,
        backends: BackendFinder,
        starter: Callable[[ModelSource, Backend], ModelT],
        parsers: Mapping[str, ConfigParser] | None = None,
        *,
        allow_pickle: Collection[str] = (),
        complete: bool = True,
        agents: Agents | None = None,
        examiner: Examiner = _anything,
    ) -> None:
        self._backends = backends
        self._starter = starter
        self._examiner = examiner
        self._parsers: dict[str, ConfigParser] = {
            "config.json": parse_json,
            "config.yaml": parse_yaml,
            "config.yml": parse_yaml,
            **(parsers or {}),
        }
        self._allow_pickle = frozenset(allow_pickle)
        self._complete = complete
        self._agents = agents if agents is not None else Agents()

    def read(self, folder: ModelFolder, config_json: str | None = None) -> ModelConfig:
        """The configuration as the file (or the caller's JSON in its place) says it, under the
        model's name. InvalidArgument when it cannot be read or says another name.
        """
        if config_json is not None:
            config = parse_json(config_json)
        elif folder.config_path is not None:
            config = self._parse(folder.config_path)
        else:
            config = ModelConfig()
        if config.name not in ("", folder.own_name) and not folder.named_by_operator:
            raise InvalidArgument(
                f"the configuration is for model '{config.name[:128]}', expected "
                f"'{folder.own_name}' like the model's folder"
            )
        return replace(config, name=folder.name)

    def build(self, folder: ModelFolder, config: ModelConfig, version: int) -> ModelT:
        """The version in memory, warm. Raises what prevented it."""
        source = self._source(folder, config, version)
        lease = self._agents.load(source)
        if lease is None:
            return self._build(source)
        try:
            model = self._build(lease.source)
        except BaseException:
            lease.close()
            raise
        model.on_stopped(lease.close)
        return model

    def examine(
        self,
        folder: ModelFolder,
        config: ModelConfig,
        version: int,
        others: Mapping[str, ModelConfig],
    ) -> ModelConfig:
        """The complete configuration of a version that is not loaded. Raises what would prevent its
        load; `others` are configurations of models that do not serve, but would.
        """
        source = self._source(folder, config, version)
        lease = self._agents.load(source)
        try:
            source, backend = self._completed(source if lease is None else lease.source)
            self._examiner(source, backend, others)
        finally:
            if lease is not None:
                lease.close()
        return source.config

    def _build(self, source: ModelSource) -> ModelT:
        return self._starter(*self._completed(source))

    def _completed(self, source: ModelSource) -> tuple[ModelSource, Backend]:
        """The version with its complete configuration, and the backend for it."""
        backend = self._backends.find(source)
        known = backend.complete(source) if self._complete else source.config
        complete = normalise(known)
        check(complete)
        source = replace(source, config=complete)
        # Asked again: completing may have named another backend, as for a module in a model.py.
        return source, self._backends.find(source)

    def regrouped(
        self, folder: ModelFolder, config: ModelConfig, kept: ModelConfig, version: int
    ) -> ModelConfig:
        """The complete configuration `kept` with the instance groups of another one as it was read.

        InvalidArgument when these are not in order. Only where it has none is the model asked.
        """
        groups = config.instance_group
        if not groups and self._complete:
            groups = self._usual_groups(self._source(folder, config, version))
        complete = normalise(replace(kept, instance_group=groups))
        check(complete)
        return complete

    def _usual_groups(self, source: ModelSource) -> tuple[InstanceGroup, ...]:
        """What the model itself says of its instances."""
        lease = self._agents.load(source)
        if lease is None:
            return self._backends.find(source).complete(source).instance_group
        try:
            found = self._backends.find(lease.source)
            return found.complete(lease.source).instance_group
        finally:
            lease.close()

    def _source(self, folder: ModelFolder, config: ModelConfig, version: int) -> ModelSource:
        return ModelSource(
            config=config,
            version=version,
            directory=folder.directory(version),
            root=folder.root,
            allow_pickle=bool(self._allow_pickle & {folder.name, "*"}),
        )

    def _parse(self, path: Path) -> ModelConfig:
        # Files in configs/ have names of their own and the format of the usual one.
        parser = self._parsers.get("config" + path.suffix)
        if parser is None:
            raise InvalidArgument(
                f"nothing here reads '{path.name}', expected one of {', '.join(self._parsers)}"
            )
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise InvalidArgument(
                f"'{path.name}' is larger than {MAX_CONFIG_BYTES} bytes, the most for a "
                "configuration"
            )
        return parser(text)


def select_versions(config: ModelConfig, folder: ModelFolder) -> tuple[int, ...]:
    """The versions on disk that the configuration's policy serves, in ascending order."""
    policy, present = config.version_policy, folder.versions
    if policy is not None and policy.all is not None:
        return present
    if policy is not None and policy.specific is not None:
        wanted = set(policy.specific.versions)
        for missing in sorted(wanted - set(present)):
            _log.error(
                "model '%s': version %d has no folder, the others go on", folder.name, missing
            )
        return tuple(version for version in present if version in wanted)
    latest = policy.latest if policy is not None else None
    count = max(1, latest.num_versions) if latest is not None else 1
    return present[-count:]


def short_reason(error: BaseException) -> str:
    """Why a load failed, in one line for callers: no paths, no stack trace."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: '{Path(str(error.filename)).name}'"
    elif not isinstance(error, PenstockError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = _PATH.sub(r"\1", " ".join(text.split()))
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
