"""A backend whose models are in processes of their own: their code and their weights never come
into the server's, not even to be asked for their configuration.
"""

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from penstock_runtime.backends.base import (
    AnyExecutable,
    Backend,
    LoadedModel,
    ModelSource,
    Placement,
)
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_reader import config_to_dict, read_config
from penstock_runtime.errors import InstanceDied, Internal
from penstock_runtime.isolation.desk import instance_key
from penstock_runtime.isolation.executables import (
    IsolatedExecutable,
    IsolatedRequests,
    IsolatedStream,
)
from penstock_runtime.isolation.frames import Frame, Kind
from penstock_runtime.isolation.life import Life, hello
from penstock_runtime.isolation.settings import Settings, settings_of
from penstock_runtime.isolation.supervised import Keeper
from penstock_runtime.labels import NO_LABELS, Labels

_FORMS: Mapping[str, Callable[[Keeper], AnyExecutable]] = MappingProxyType(
    {"batch": IsolatedExecutable, "stream": IsolatedStream, "requests": IsolatedRequests}
)


class IsolatedBackend:
    """Does in a process what `inner` does in this one."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name = inner.name

    @property
    def uses_gpu(self) -> bool:
        """Whether an instance of no particular kind goes to a GPU."""
        return self.inner.uses_gpu

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory looks like the backend's."""
        return self.inner.recognises(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with what the model itself knows, which a process is asked for."""
        settings = settings_of(source.config)
        life = Life(source.config.name, f"{source.config.name}_config", settings, _Nobody, _nothing)
        try:
            with life.question() as question:
                question.ask(Kind.HELLO, _hello(source))
                frame = question.answer(_nothing)
        finally:
            life.kill()
        told = frame.note.get("config")
        if not isinstance(told, dict):
            raise Internal(f"the process of model '{source.config.name}' gave no configuration")
        return read_config(told)

    def labels(self, source: ModelSource) -> Labels:
        """What the model's classes are called, as far as the backend knows."""
        known = getattr(self.inner, "labels", None)
        return NO_LABELS if known is None else known(source)

    def load(self, source: ModelSource) -> LoadedModel:
        """Nothing is loaded here: each instance does so in its own process."""
        return IsolatedModel(source, settings_of(source.config))


def _hello(source: ModelSource) -> dict[str, object]:
    return hello(
        "complete",
        config_to_dict(source.config),
        version=source.version,
        directory=str(source.directory),
        root=str(source.root),
        pickle=source.allow_pickle,
        beat=0.5,
        services=False,
    )


class IsolatedModel:
    """One version; its instances share nothing."""

    def __init__(self, source: ModelSource, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        self._lock = threading.Lock()
        self._keepers: list[Keeper] = []

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new process with the model in it. Raises what its load raised."""
        services = self._source.services
        keeper = Keeper(self._source, placement, self._settings)
        if services is not None:
            services.waits.add_instance(instance_key(self._source))
        with self._lock:
            self._keepers.append(keeper)
        try:
            keeper.begin()
        except InstanceDied as died:
            raise Internal(
                f"{died.message} while it loaded the model", reason="LOAD_FAILED"
            ) from died
        return _FORMS[keeper.form](keeper)

    def close(self) -> None:
        """End what is left, and forget the metrics that were made."""
        services = self._source.services
        with self._lock:
            keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.close()
            if services is not None:
                services.waits.remove_instance(instance_key(self._source))
                services.metrics.release(keeper)

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held per device, summed over the processes."""
        held: dict[str, int] = {}
        with self._lock:
            keepers = list(self._keepers)
        for keeper in keepers:
            for device, size in keeper.memory_bytes().items():
                held[device] = held.get(device, 0) + size
        return held


class _Nobody:
    """Whom a process may ask that only completes a configuration."""

    def __init__(self, _life: Life) -> None: ...

    def handle(self, _frame: Frame) -> bool:
        """Nothing is known."""
        return False

    def close(self, _error: InstanceDied) -> None:
        """Nothing is to be ended."""


def _nothing() -> None:
    return
