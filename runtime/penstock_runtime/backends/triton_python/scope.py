"""On whose behalf the code that runs at this moment runs: which model's, and for which requests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from penstock_runtime.backends.base import RequestTask
from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.lending import Lending
from penstock_runtime.model_services import ModelServices
from penstock_runtime.wait_graph import model_key


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """One instance of a model on its server, and its name; equal to nothing but itself."""

    model: str
    version: int
    services: ModelServices | None
    directory: str = ""
    lending: Lending | None = None
    name: str = ""

    @property
    def key(self) -> str:
        """What the model is called among those that wait for each other."""
        return model_key(self.model, self.version)


@dataclass(frozen=True, slots=True)
class Scope:
    """`blocks` says that the instance waits for the code that runs; `loads` that its model is being
    loaded.
    """

    host: Host | None
    tasks: Sequence[RequestTask] = ()
    blocks: bool = False
    loads: bool = False

    @property
    def depth(self) -> int:
        """How many models' code waits for this one's."""
        return max((task.request.depth for task in self.tasks), default=0)

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits any more; None if somebody does for ever."""
        deadlines = [task.request.deadline_ns for task in self.tasks]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(known) if known and len(known) == len(deadlines) else None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return bool(self.tasks) and all(task.abandoned for task in self.tasks)


_NOBODY = Scope(None)
_scope: ContextVar[Scope] = ContextVar("penstock_triton_scope", default=_NOBODY)


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """The code of the block runs on behalf of these."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def current() -> Scope:
    """On whose behalf this thread or task runs; one that a model started itself is not known."""
    return _scope.get()


class Hosts:
    """The instances that there are in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: set[Host] = set()

    def add(self, host: Host) -> None:
        """There is one more."""
        with self._lock:
            self._hosts.add(host)

    def remove(self, host: Host) -> None:
        """There is one less."""
        with self._lock:
            self._hosts.discard(host)

    def services(self) -> ModelServices | None:
        """What all of them may use; None where there is nothing, or several servers."""
        with self._lock:
            known: dict[int, Any] = {id(h.services): h.services for h in self._hosts if h.services}
        return known.popitem()[1] if len(known) == 1 else None


HOSTS = Hosts()


def services_of(scope: Scope, what: str) -> ModelServices:
    """What the code may use of its server. TritonModelException where there is none."""
    own = scope.host.services if scope.host is not None else HOSTS.services()
    if own is None:
        raise TritonModelException(f"{what} needs a server, and there is none")
    return own
