"""Laws of a request's way through an ensemble: whatever the order in which steps answer, the caller
gets what the graph says, each step is executed as often as it must be, and nothing is kept.
"""

import random
from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.ensembles import (
    Part,
    Whole,
    compute,
    decoupled_wholes,
    expected,
    number,
    plain_wholes,
)

from penstock_runtime.scheduling.ensemble_frame import Answer, Frame, Moves, Start, Task
from penstock_runtime.scheduling.ensemble_graph import Plan
from penstock_runtime.scheduling.ensemble_progress import Progress
from penstock_runtime.tensor import Tensor

VALUES = {"in0": 3, "in1": 10, "in2": 21}


class Walk:
    """Answers the steps of one request in an order that is drawn, and checks each move."""

    def __init__(self, whole: Whole, plan: Plan, seed: int, absent: tuple[str, ...] = ()) -> None:
        self.whole = whole
        self.plan = plan
        self.progress = Progress(plan, whole.limit)
        self.random = random.Random(seed)
        self.open: dict[Task, Start] = {}
        self.said: Counter[Task] = Counter()
        self.answers: list[Answer] = []
        self.executed: Counter[int] = Counter()
        self.opened: Counter[Task] = Counter()
        self.over: Counter[Task] = Counter()
        self.done = False
        inputs = {n: number(n, VALUES[n]) for n in whole.inputs if n not in absent}
        self.apply(self.progress.begin(inputs))

    def apply(self, moves: Moves) -> None:
        assert not self.done
        self.answers += moves.answers
        self.over.update(moves.over)
        for start in moves.starts:
            self.open[start.task] = start
            self.executed[start.task.step.index] += 1
        self.done = moves.done
        running = Counter(task.step.index for task in self.open)
        assert not self.whole.limit or max(running.values(), default=0) <= self.whole.limit
        assert self.done == (not self.open) or moves.starts

    def run(self) -> None:
        """Until every step has ended."""
        while self.open:
            task = self.random.choice(list(self.open))
            times = self.whole.parts[task.step.index].times
            said = self.said[task]
            if said < (1 if times is None else times):
                self.said[task] += 1
                self.opened[task] += times is not None
                self.apply(self.progress.respond(task, self.outputs(self.open[task], said)))
            else:
                del self.open[task]
                self.apply(self.progress.end(task))
        assert self.done
        assert self.over == +self.opened

    def outputs(self, start: Start, response: int) -> Mapping[str, Tensor]:
        step = start.task.step
        part = self.whole.parts[step.index]
        read = [int(start.inputs[f"I{i}"].array[0]) for i in range(len(part.reads))]
        return {
            f"O{i}": number(f"O{i}", compute(step.index, read, i, response))
            for i in range(len(part.makes))
        }

    @property
    def values(self) -> list[dict[str, int]]:
        """What the caller got."""
        return [{n: int(t.array[0]) for n, t in one.outputs.items()} for one in self.answers]


def walk(whole: Whole, seed: int, wanted: tuple[str, ...] = ()) -> Walk:
    """The whole of it."""
    made = Walk(whole, whole.graph().plan(wanted), seed)
    made.run()
    return made


@given(plain_wholes(), st.integers(0, 2**32))
def test_an_ensemble_answers_as_its_graph_says(whole: Whole, seed: int) -> None:
    """Once, whatever the order of the steps; each step is executed once."""
    made = walk(whole, seed)

    assert made.values == expected(whole, VALUES)
    assert set(made.executed.values()) == {1}
    assert len(made.executed) == len(whole.parts)


@given(plain_wholes(), st.integers(0, 2**32), st.data())
def test_an_output_that_is_not_wanted_is_not_worked_for(
    whole: Whole, seed: int, data: st.DataObject
) -> None:
    """What is wanted is right, and a step that only leads to other outputs is not executed."""
    wanted = tuple(data.draw(st.sets(st.sampled_from(whole.outputs), min_size=1)))
    needed = _needed(whole, set(wanted))

    made = walk(whole, seed, wanted)

    (all_of_it,) = expected(whole, VALUES)
    assert made.values == [{n: v for n, v in all_of_it.items() if n in wanted}]
    assert set(made.executed) == needed


def _needed(whole: Whole, wanted: set[str]) -> set[int]:
    """Steps with a tensor that is wanted, or that a needed step reads, or that is nobody's."""
    read = {name for part in whole.parts for name in part.reads}
    nobodys = {n for p in whole.parts for n in p.makes if n not in read | set(whole.outputs)}
    wanted, needed = wanted | nobodys, set[int]()
    for index, part in reversed(list(enumerate(whole.parts))):
        if wanted & set(part.makes):
            needed.add(index)
            wanted |= set(part.reads)
    return needed


@given(decoupled_wholes(), st.integers(0, 2**32))
def test_every_response_of_a_decoupled_step_drives_what_comes_after_it(
    whole: Whole, seed: int
) -> None:
    """Responses come in the order of those that they were made of, whatever ends first."""
    made = walk(whole, seed)

    assert [dict(sorted(one.items())) for one in made.values] == [
        dict(sorted(one.items())) for one in _unique(whole)
    ]


def _unique(whole: Whole) -> list[dict[str, int]]:
    """What is expected: decoupled steps that no output depends on make no response of their own."""
    emits = whole.graph().plan(()).way
    depth = {step.index: step.opens for step in whole.graph().steps if step.decoupled}
    quiet = [index for index, scope in depth.items() if scope not in emits]
    parts = tuple(
        Part(part.reads, part.makes, None) if index in quiet else part
        for index, part in enumerate(whole.parts)
    )
    return expected(Whole(whole.inputs, whole.outputs, parts), VALUES)


@given(st.one_of(plain_wholes(), decoupled_wholes()), st.integers(0, 2**32))
def test_a_tensor_is_dropped_once_nobody_needs_it(whole: Whole, seed: int) -> None:
    """What a frame holds at any time is waited for by a step that has not started, or by a
    response, there or in a frame that may still open; in the end nothing is held.
    """
    plan = whole.graph().plan(())
    made = Walk(whole, plan, seed)
    check = _HeldOnPurpose(plan)
    original = made.apply

    def apply(moves: Moves) -> None:
        original(moves)
        check(made.progress._root)

    made.apply = apply  # type: ignore[method-assign]
    made.run()

    assert made.progress._root.tensors == {}
    assert made.progress._root.below.get(1, []) == []


@given(st.one_of(plain_wholes(), decoupled_wholes()), st.integers(0, 2**32))
def test_steps_that_bring_less_than_they_map_leave_nothing_waiting(whole: Whole, seed: int) -> None:
    """Whatever is missing, the request ends, and what it answers is right."""
    made = Walk(whole, whole.graph().plan(()), seed)
    bring = made.outputs

    def outputs(start: Start, response: int) -> Mapping[str, Tensor]:
        return {n: t for n, t in bring(start, response).items() if made.random.random() < 0.8}

    made.outputs = outputs  # type: ignore[method-assign]
    made.run()

    allowed = [one.items() for one in _unique(whole)]
    assert all(any(got.items() <= one for one in allowed) for got in made.values)
    assert made.progress._root.tensors == {}


class _HeldOnPurpose:
    """Looks at what a tree of frames holds."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, frame: Frame) -> None:
        for name in frame.tensors:
            assert self._is_needed(name, frame), (name, frame)
        for frames in frame.below.values():
            for below in frames:
                self(below)

    def _is_needed(self, name: str, frame: Frame) -> bool:
        readers = [s for s in self._plan.readers[name] if s.scope == frame.scope]
        deeper = any(
            frame.below.get(scope) or self._opens(scope, frame)
            for (above, scope), names in self._plan.below.items()
            if above == frame.scope and name in names
        )
        waits = any(step.index not in frame.started for step in readers)
        return waits or deeper or (name in self._plan.outputs)

    def _opens(self, scope: int, frame: Frame) -> bool:
        """Whether there may be more frames of a scope right below."""
        (maker,) = [s for s in self._plan.in_scope[frame.scope] if s.opens == scope]
        return maker.index not in frame.ended | frame.dead


def test_what_one_decoupled_step_keeps_for_its_frames_is_dropped_with_the_last() -> None:
    """A tensor from before is there for every response, and not longer."""
    whole = Whole(
        ("in0",),
        ("out",),
        (
            Part(("in0",), ("many",), 2),
            Part(("in0",), ("once",)),
            Part(("many", "once"), ("out",)),
            Part(("once",), ("slow",)),
        ),
    )
    progress = Progress(whole.graph().plan(()))
    many, once = progress.begin({"in0": number("in0", 1)}).starts
    first = progress.respond(many.task, {"O0": number("O0", 1)})
    (slow, join) = progress.respond(once.task, {"O0": number("O0", 2)}).starts
    if slow.task.step.index == 2:
        slow, join = join, slow
    progress.end(once.task)
    progress.end(many.task)

    held = set(progress._root.tensors)
    progress.respond(join.task, {"O0": number("O0", 3)})
    last = progress.end(join.task)

    assert first.starts == []
    assert held == {"once"}
    assert [answer.outputs["out"].array[0] for answer in last.answers] == [3]
    assert last.over == [many.task]
    assert progress._root.tensors == {}
    assert not last.done
    assert progress.end(slow.task).done


def test_an_output_that_a_response_does_not_bring_holds_back_nothing() -> None:
    """The responses behind it go out, and what could not be made is missing."""
    whole = Whole(("in0",), ("a", "b"), (Part(("in0",), ("a", "b"), 2),))
    progress = Progress(whole.graph().plan(()))
    (many,) = progress.begin({"in0": number("in0", 1)}).starts

    half = progress.respond(many.task, {"O0": number("O0", 1)})
    none = progress.respond(many.task, {})
    full = progress.respond(many.task, {"O0": number("O0", 1), "O1": number("O1", 2)})

    assert [sorted(answer.outputs) for answer in half.answers] == [["a"]]
    assert none.answers == []
    assert [sorted(answer.outputs) for answer in full.answers] == [["a", "b"]]
    assert progress.end(many.task).done


def test_what_cannot_be_made_is_not_waited_for() -> None:
    """A step that brings less than it maps starves those after it, wherever they are."""
    parts = (
        Part(("in0",), ("many",), 2),
        Part(("in0",), ("once",)),
        Part(("many", "once"), ("joined",)),
        Part(("joined",), ("more",), 2),
        Part(("more",), ("out",)),
    )
    progress = Progress(Whole(("in0",), ("out",), parts).graph().plan(()))
    many, once = progress.begin({"in0": number("in0", 1)}).starts
    progress.respond(many.task, {"O0": number("O0", 1)})

    progress.respond(once.task, {})
    starved = progress.end(once.task)
    late = progress.respond(many.task, {"O0": number("O0", 2)})
    last = progress.end(many.task)

    assert (starved.over, late.over) == ([many.task], [many.task])
    assert (starved.starts, late.starts) == ([], [])
    assert last.done
    assert last.answers == []


def test_a_deep_graph_with_many_ways_is_as_quick_as_a_short_one() -> None:
    """Three hundred steps that each read two tensors of the one before have 2^300 ways."""
    parts = [Part(("in0",), ("a0", "b0"))]
    parts += [Part((f"a{i}", f"b{i}"), (f"a{i + 1}", f"b{i + 1}")) for i in range(299)]

    made = walk(Whole(("in0",), ("a299",), tuple(parts)), 0)

    assert len(made.executed) == 300
    assert len(made.answers) == 1


def test_a_step_without_the_inputs_that_were_left_out_is_executed() -> None:
    """An optional input that the request did not bring is not waited for."""
    whole = Whole(("in0", "in1"), ("out",), (Part(("in0", "in1"), ("out",)),))
    progress = Progress(whole.graph().plan((), ("in1",)))

    (start,) = progress.begin({"in0": number("in0", 1)}).starts

    assert set(start.inputs) == {"I0"}


def test_parameters_of_a_response_are_those_of_the_steps_that_made_its_outputs() -> None:
    """And of no other step."""
    whole = Whole(("in0",), ("out",), (Part(("in0",), ("inner",)), Part(("inner",), ("out",))))
    progress = Progress(whole.graph().plan(()))
    (first,) = progress.begin({"in0": number("in0", 1)}).starts
    (second,) = progress.respond(first.task, {"O0": number("O0", 1)}, {"a": 1, "b": 1}).starts
    progress.end(first.task)

    progress.respond(second.task, {"O0": number("O0", 2)}, {"b": 2})
    last = progress.end(second.task)

    assert [dict(answer.parameters) for answer in last.answers] == [{"b": 2}]
