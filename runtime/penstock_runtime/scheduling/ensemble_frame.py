"""The words of a request's way through an ensemble: the frames that hold its tensors, executions of
steps, and what follows from an event.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_runtime.request import EMPTY, Parameter, Parameters
from penstock_runtime.scheduling.ensemble_graph import Step
from penstock_runtime.tensor import Tensor


class Frame:
    """The tensors of one response of a decoupled step, or of the request itself, and the steps that
    are executed with them.

    `busy` counts the steps that were started and have not ended, and the frames below that are not
    over. `come` are the tensors that came, `never` those that never will, `dead` the steps that
    will therefore not be executed. `turn` are the frames below that make responses, in the order of
    these; `told` says that all the responses of this one have been made, `gone` that it is over.
    """

    __slots__ = (
        "below",
        "busy",
        "come",
        "dead",
        "ended",
        "gone",
        "maker",
        "never",
        "parameters",
        "parent",
        "scope",
        "started",
        "tensors",
        "told",
        "turn",
        "uses",
    )

    def __init__(self, scope: int, parent: "Frame | None", maker: "Task | None") -> None:
        self.scope = scope
        self.parent = parent
        self.maker = maker
        self.tensors: dict[str, Tensor] = {}
        self.uses: dict[str, int] = {}
        self.parameters: dict[str, Parameter] = {}
        self.started: set[int] = set()
        self.ended: set[int] = set()
        self.dead: set[int] = set()
        self.come: set[str] = set()
        self.never: set[str] = set()
        self.below: dict[int, list[Frame]] = {}
        self.turn: deque[Frame] = deque()
        self.told = self.gone = False
        self.busy = 0

    def find(self, tensor: str) -> Tensor | None:
        """A tensor of this frame or of those above."""
        frame: Frame | None = self
        while frame is not None:
            found = frame.tensors.get(tensor)
            if found is not None:
                return found
            frame = frame.parent
        return None

    def above(self, scope: int) -> "Frame":
        """The frame of a scope above, or this one."""
        frame = self
        while frame.scope != scope:
            assert frame.parent is not None
            frame = frame.parent
        return frame

    def __repr__(self) -> str:
        return f"<Frame of scope {self.scope}, {len(self.tensors)} tensors, {self.busy} busy>"


class Task:
    """One execution of one step."""

    __slots__ = ("frame", "step")

    def __init__(self, step: Step, frame: Frame) -> None:
        self.step = step
        self.frame = frame

    def __repr__(self) -> str:
        return f"<Task {self.step}>"


@dataclass(frozen=True, slots=True)
class Start:
    """A step to execute now, with its inputs by the model's own names. `shared` are those whose
    memory is also somebody else's.
    """

    task: Task
    inputs: Mapping[str, Tensor]
    shared: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response for the caller; outputs that no step made are missing."""

    outputs: Mapping[str, Tensor]
    parameters: Parameters = field(default_factory=lambda: EMPTY)


@dataclass(slots=True)
class Moves:
    """What follows from an event, in this order: `over` names the task of each frame that ended."""

    answers: list[Answer] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    over: list[Task] = field(default_factory=list)
    done: bool = False
