"""One request on its way through the graph of an ensemble: given what a step answered, which steps
can be executed now, which responses the caller gets, and what need not be kept any longer.

Pure: no clock, no lock, no thread. A step that was started has ended once `end` was called for it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from penstock_runtime.request import EMPTY, Parameter, Parameters
from penstock_runtime.scheduling.ensemble_frame import Answer, Frame, Moves, Start, Task
from penstock_runtime.scheduling.ensemble_graph import ROOT, Plan, Step
from penstock_runtime.tensor import Tensor


class Progress:
    """The state of one request. With `limit` no step is executed more often than that at once, and
    what is ready beyond it waits.
    """

    def __init__(self, plan: Plan, limit: int = 0) -> None:
        self._plan = plan
        self._limit = limit
        self._root = Frame(ROOT, None, None)
        self._running: dict[int, int] = {}
        self._held: dict[int, deque[Start]] = {}

    # -- events ----------------------------------------------------------------------------------

    def begin(self, inputs: Mapping[str, Tensor]) -> Moves:
        """The request is there, with these inputs."""
        moves = Moves()
        self._arrive(self._root, inputs, moves)
        # Steps all of whose inputs are optional and absent.
        self._start_ready(self._root, self._plan.in_scope[ROOT], moves)
        self._look(self._root, moves)
        return moves

    def respond(
        self, task: Task, outputs: Mapping[str, Tensor], parameters: Parameters = EMPTY
    ) -> Moves:
        """A step gave a response, its outputs by the model's own names."""
        moves = Moves()
        frame, step = task.frame, task.step
        if step.decoupled:
            frame = self._open(task)
        named = {tensor: outputs[own] for own, tensor in step.outputs if own in outputs}
        if parameters and any(tensor in self._plan.outputs for tensor in named):
            frame.parameters.update(parameters)
        self._arrive(frame, named, moves)
        if step.decoupled:
            self._start_ready(frame, self._plan.in_scope[frame.scope], moves)
            self._miss(frame, (tensor for _, tensor in step.outputs if tensor not in frame.come))
            self._kill_unfed(frame)
            self._look(frame, moves)
        return moves

    def end(self, task: Task) -> Moves:
        """A step will give no more responses."""
        moves = Moves()
        frame, step = task.frame, task.step
        frame.busy -= 1
        frame.ended.add(step.index)
        self._release(step.index, moves)
        if step.decoupled:
            self._drop_below(frame, step.opens)
        else:
            self._miss(frame, (tensor for _, tensor in step.outputs if tensor not in frame.come))
        self._look(frame, moves)
        return moves

    def forget(self) -> None:
        """The request is over: nothing is kept for it any longer."""
        self._root = Frame(ROOT, None, None)
        self._held.clear()

    # -- tensors ---------------------------------------------------------------------------------

    def _arrive(self, frame: Frame, tensors: Mapping[str, Tensor], moves: Moves) -> None:
        """Keep what is used, and start what only waited for it."""
        plan = self._plan
        frame.come.update(tensors)
        for name, tensor in tensors.items():
            if plan.uses.get(name):
                frame.tensors[name] = tensor
                frame.uses[name] = plan.uses[name]
        # A decoupled step may have ended before what is read with its responses has come.
        for (above, scope), names in plan.below.items():
            if above == frame.scope and self._is_closed(frame, scope):
                for name in tensors.keys() & set(names):
                    self._use(frame, name)
        for name in tensors:
            for step in plan.readers.get(name, ()):
                for each in self._frames(frame, step.scope):
                    self._start_ready(each, (step,), moves)

    def _use(self, frame: Frame, tensor: str) -> None:
        """One of those that a tensor of this frame was kept for has it."""
        left = frame.uses.get(tensor)
        if left is None:
            return
        if left > 1:
            frame.uses[tensor] = left - 1
        else:
            del frame.uses[tensor], frame.tensors[tensor]

    def _drop_below(self, frame: Frame, scope: int) -> None:
        """Drop what was kept for the frames of a scope below, if there will be no more of them."""
        if self._is_closed(frame, scope):
            for tensor in self._plan.below.get((frame.scope, scope), ()):
                self._use(frame, tensor)

    def _is_closed(self, frame: Frame, scope: int) -> bool:
        """Whether there is no frame of a scope right below, nor will be."""
        if frame.below.get(scope):
            return False
        maker = next((s for s in self._plan.in_scope[frame.scope] if s.opens == scope), None)
        return maker is None or maker.index in frame.ended or maker.index in frame.dead

    def _frames(self, frame: Frame, scope: int) -> Iterable[Frame]:
        """The frames of a scope that lie in this one, itself included."""
        if frame.scope == scope:
            return (frame,)
        found: list[Frame] = []
        for frames in list(frame.below.values()):
            for below in list(frames):
                found.extend(self._frames(below, scope))
        return found

    # -- steps -----------------------------------------------------------------------------------

    def _start_ready(self, frame: Frame, steps: Iterable[Step], moves: Moves) -> None:
        for step in steps:
            if step.index in frame.started or step.scope != frame.scope:
                continue
            found = {own: frame.find(tensor) for own, tensor in step.inputs}
            inputs = {own: tensor for own, tensor in found.items() if tensor is not None}
            if len(inputs) == len(found):
                self._start(step, frame, inputs, moves)

    def _start(self, step: Step, frame: Frame, inputs: Mapping[str, Tensor], moves: Moves) -> None:
        frame.started.add(step.index)
        frame.busy += 1
        shared = frozenset(own for own, t in step.inputs if t not in self._plan.private)
        start = Start(Task(step, frame), MappingProxyType(inputs), shared)
        for tensor in step.reads:
            if self._plan.scopes[tensor] == step.scope:
                self._use(frame, tensor)
        running = self._running.get(step.index, 0)
        if self._limit and running >= self._limit:
            self._held.setdefault(step.index, deque()).append(start)
        else:
            self._running[step.index] = running + 1
            moves.starts.append(start)

    def _release(self, index: int, moves: Moves) -> None:
        """An execution of this step ended: the next one of those that wait may start."""
        held = self._held.get(index)
        if held:
            moves.starts.append(held.popleft())
        else:
            self._running[index] -= 1

    # -- frames ----------------------------------------------------------------------------------

    def _open(self, task: Task) -> Frame:
        """A frame for one more response of a decoupled step."""
        parent = task.frame
        frame = Frame(task.step.opens, parent, task)
        parent.below.setdefault(frame.scope, []).append(frame)
        parent.busy += 1
        if frame.scope in self._plan.way:
            parent.turn.append(frame)
        return frame

    def _look(self, frame: Frame, moves: Moves) -> None:
        """Something of this frame has ended: answer what is due, and end what is over."""
        due = deque(self._inside(frame))
        while True:
            due.extend(self._answer(self._root, moves))
            if not due:
                return
            at: Frame | None = due.popleft()
            while at is not None and self._is_over(at):
                at = self._end_frame(at, moves)

    def _inside(self, frame: Frame) -> list[Frame]:
        """The frames below this one, the deepest first, and itself."""
        found: list[Frame] = []
        for frames in frame.below.values():
            for below in frames:
                found += self._inside(below)
        return [*found, frame]

    def _is_over(self, frame: Frame) -> bool:
        if frame.busy or frame.gone or self._waits(frame):
            return False
        return frame.told or frame.scope not in self._plan.way

    def _waits(self, frame: Frame) -> bool:
        """Whether a step of this frame may still be executed."""
        return any(
            step.index not in frame.started and step.index not in frame.dead
            for step in self._plan.in_scope[frame.scope]
        )

    def _miss(self, frame: Frame, tensors: Iterable[str]) -> None:
        """These will not come to this frame, nor what would have been made of them."""
        left = [(frame, tensor) for tensor in tensors]
        while left:
            place, tensor = left.pop()
            place.never.add(tensor)
            for step in self._plan.readers.get(tensor, ()):
                for each in self._frames(place, step.scope):
                    left += self._kill(step, each)

    def _kill(self, step: Step, frame: Frame) -> list[tuple[Frame, str]]:
        """The step will not be executed in this frame; the tensors that will be missing for it."""
        if step.index in frame.started or step.index in frame.dead:
            return []
        frame.dead.add(step.index)
        if step.decoupled:
            self._drop_below(frame, step.opens)
            return []
        return [(frame, tensor) for _, tensor in step.outputs]

    def _kill_unfed(self, frame: Frame) -> None:
        """Of a frame that was just opened: the steps that read what will not come from above."""
        for step in self._plan.in_scope[frame.scope]:
            if any(tensor in frame.above(self._plan.scopes[tensor]).never for tensor in step.reads):
                for place, tensor in self._kill(step, frame):
                    self._miss(place, (tensor,))

    def _end_frame(self, frame: Frame, moves: Moves) -> Frame | None:
        """Forget the frame; the one above, in which something has ended now."""
        frame.gone = True
        frame.tensors.clear()
        frame.uses.clear()
        parent, maker = frame.parent, frame.maker
        if parent is None or maker is None:
            moves.done = True
            return None
        parent.below[frame.scope].remove(frame)
        parent.busy -= 1
        moves.over.append(maker)
        self._drop_below(parent, frame.scope)
        return parent

    # -- responses -------------------------------------------------------------------------------

    def _answer(self, frame: Frame, moves: Moves) -> list[Frame]:
        """Make the responses that are due, in order; the frames that have made all of theirs."""
        if frame.told:
            return []
        if frame.scope == self._plan.emits:
            return self._answer_here(frame, moves)
        told: list[Frame] = []
        while frame.turn:
            first = frame.turn[0]
            told += self._answer(first, moves)
            if not first.told:
                return told
            frame.turn.popleft()
        frame.told = not self._opens_more(frame)
        return [*told, frame] if frame.told else told

    def _answer_here(self, frame: Frame, moves: Moves) -> list[Frame]:
        found = {name: frame.find(name) for name in self._plan.outputs}
        missing = (name for name, tensor in found.items() if tensor is None)
        if any(name not in frame.above(self._plan.scopes[name]).never for name in missing):
            return []
        frame.told = True
        self._tell(frame, {n: tensor for n, tensor in found.items() if tensor is not None}, moves)
        return [frame]

    def _opens_more(self, frame: Frame) -> bool:
        """Whether frames below that make responses may still be opened."""
        scope = self._plan.way[self._plan.way.index(frame.scope) + 1]
        step = next(s for s in self._plan.in_scope[frame.scope] if s.opens == scope)
        return step.index not in frame.ended and step.index not in frame.dead

    def _tell(self, frame: Frame, outputs: Mapping[str, Tensor], moves: Moves) -> None:
        own = any(self._plan.scopes[name] == frame.scope for name in outputs)
        if own or frame.parent is None:
            parameters: dict[str, Parameter] = {}
            for scope in self._plan.way:
                parameters |= frame.above(scope).parameters
            moves.answers.append(Answer(MappingProxyType(dict(outputs)), parameters or EMPTY))
        for name in outputs:
            if self._plan.scopes[name] == frame.scope:
                self._use(frame, name)

    def __repr__(self) -> str:
        return f"<Progress {sum(self._running.values())} steps, {self._root!r}>"
