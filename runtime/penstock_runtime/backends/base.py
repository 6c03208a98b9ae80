"""What a backend is: it recognises a directory, completes its configuration, loads it once,
executes it often.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import FailedPrecondition, PenstockError
from penstock_runtime.memory.staging import Deck
from penstock_runtime.model_services import ModelServices
from penstock_runtime.request import EMPTY, InferRequest, Parameters

# A reader that takes nothing for so long does not get to hold an instance any longer.
SLOW_READER_S = 10.0
# Names to arrays (numpy, torch or CuPy), batched along axis 0 when max_batch_size > 0.
Arrays = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one instance lives; `kind` is KIND_CPU or KIND_GPU, `device_id` the GPU's ordinal;
    `process` says that it has a process of its own.
    """

    name: str
    kind: str = "KIND_CPU"
    device_id: int = 0
    process: bool = False

    @property
    def device(self) -> str:
        """The device in torch's words: cpu or cuda:N."""
        return f"cuda:{self.device_id}" if self.kind == "KIND_GPU" else "cpu"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One version of one model on disk; `directory` is the version's, `root` the model's own
    folder, `services` what its code may use of its server (None: there is no server).
    """

    config: ModelConfig
    version: int
    directory: Path
    root: Path
    allow_pickle: bool = False
    services: ModelServices | None = None


@runtime_checkable
class Executable(Protocol):
    """One instance of a model that turns a merged batch into merged outputs."""

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch; `contexts` are its requests in row order. Called from one
        thread.
        """

    def close(self) -> None:
        """Give back what this instance holds."""


class Staged(ABC):
    """An executable whose inputs may be put together where it takes them, by a deck of its own;
    `lost` is how its device was lost to this process, nothing as long as it was not.
    """

    lost: str = ""

    @property
    @abstractmethod
    def deck(self) -> Deck | None:
        """That of its device; None where the host puts them together."""

    def tables(self, told: Arrays) -> Arrays:  # noqa: ARG002 - for those who have some
        """What else goes down with each batch: the host's arrays, made of the inputs that tell of
        it.
        """
        return {}


class Straight(ABC):
    """An executable whose function can be called without anything around it, for executions that
    take less than what goes on around them. A class, since those are told from others quickly.
    """

    @property
    @abstractmethod
    def straight(self) -> Callable[..., Any] | None:
        """Takes arrays by name and nothing else; None where there is no such function. What it
        returns is either the only output as it is, or something for `outputs`.
        """

    @abstractmethod
    def outputs(self, returned: Any, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """What it returned, as `Executable.execute` would give it."""

    @abstractmethod
    def failure(self, error: BaseException) -> PenstockError:
        """What it raised, as `Executable.execute` would raise it."""


@runtime_checkable
class StreamingExecutable(Protocol):
    """One instance of a decoupled model: one request in, any number of responses out."""

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        """The responses of one request, as they come. Closed early when the caller gives up."""

    def close(self) -> None:
        """Give back what this instance holds."""


class RequestTask(ABC):
    """One request in the hands of a model that answers by itself, from whatever thread.

    Whatever is said after its end is dropped: the caller may have given up in the meantime.
    """

    __slots__ = ()
    request: InferRequest
    arrays: Arrays

    @property
    @abstractmethod
    def abandoned(self) -> bool:
        """Whether nobody waits for an answer any more."""

    @property
    def has_room(self) -> bool:
        """Whether `send` would not have to wait for a reader."""
        return True

    @abstractmethod
    def send(
        self,
        outputs: Arrays,
        parameters: Parameters = EMPTY,
        *,
        last: bool = True,
        patience_s: float = SLOW_READER_S,
    ) -> None:
        """Answer with these outputs. Only a decoupled request may have another response after.

        Blocks for so long where too much is unsent; then the request fails.
        """

    @abstractmethod
    def finish(self) -> None:
        """End a decoupled request without a further response."""

    @abstractmethod
    def fail(self, error: PenstockError) -> None:
        """End with an error."""

    def reschedule(self, again: bool = True) -> None:
        """Ask for a further execution of the request after this one (an iterative sequence).
        FailedPrecondition where there is none.
        """
        if again:
            raise FailedPrecondition(
                "a request was rescheduled whose model does not say iterative_sequence: true",
                scheduled=True,
            )

    @abstractmethod
    def on_abandon(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from any thread, if nobody waits any more (at once if it has ended already);
        what is returned ends that.
        """


class RequestExecutable(ABC):
    """One instance of a model that is handed the requests of a batch as they are, and answers each.

    A class, since its executions are told from others when an instance starts.
    """

    @abstractmethod
    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        """Answer these requests, or see to it that they are answered later. What it raises fails
        those that have no last answer yet.
        """

    @abstractmethod
    def finalize(self) -> None:
        """Nothing more is executed: let the model end what it has begun."""

    @abstractmethod
    def close(self) -> None:
        """Give back what this instance holds."""

    @property
    def ready(self) -> bool:
        """Whether the model says that it can serve; never blocks."""
        return True

    @property
    def lost(self) -> str:
        """How its device was lost to this process; nothing as long as it was not."""
        return ""


class Supervised(ABC):
    """What is more to say of an executable that may end by itself and come back: what it executes
    is in a process of its own.
    """

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it can execute now; never blocks."""

    @property
    @abstractmethod
    def restarts(self) -> int:
        """How often it came back."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process that it is in now."""

    @abstractmethod
    def supervise(
        self,
        give_up: Callable[[], bool],
        on_death: Callable[[], None],
        warm: Callable[[], None],
    ) -> None:
        """`give_up` says when nobody wants it back, `on_death` is called from any thread when it
        ends, `warm` executes what it should before it is ready again.
        """

    @abstractmethod
    def revive(self) -> bool:
        """See to it that it is there, in the instance's own thread; False if there is no hope or
        nobody wants it.
        """


AnyExecutable = Executable | StreamingExecutable | RequestExecutable


class LoadedModel(Protocol):
    """A version in memory; what its instances share (weights, once per device) lives here."""

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance, ready and warm; called in the thread that will execute it."""

    def close(self) -> None:
        """Give the shared memory back; every instance is closed by then."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes held by weights and buffers per device ("cpu", "cuda:0"), as far as the backend
        knows.
        """


class Backend(Protocol):
    """A kind of model; `uses_gpu` tells where KIND_AUTO puts its instances.

    One whose executables take inputs that are on their device already, as arrays with DLPack, says
    so by an attribute `takes_device_arrays`; one whose models know what their classes are called,
    by a method `labels` of a source.
    """

    name: str

    @property
    def uses_gpu(self) -> bool:
        """Whether an instance of no particular kind goes to a GPU where there is one."""

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory looks like this backend's (by file names only)."""

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with everything filled in that the model itself knows and the file left
        open.
        """

    def load(self, source: ModelSource) -> LoadedModel:
        """Load weights and code; `source.config` is complete. Raises a PenstockError that says why
        not.
        """
