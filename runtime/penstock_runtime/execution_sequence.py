"""Executing one step of sequences: a turn of each, with controls and states beside the inputs.

Whatever a model does, every request gets exactly one last answer and moves exactly one counter. A
step that fails is not tried again: a model that remembers might then take it twice.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from penstock_kernels.ragged import gather_rows
from penstock_runtime.backends.base import Arrays, Executable, StreamingExecutable
from penstock_runtime.batch import Batch
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import SequenceBatching
from penstock_runtime.context_sequence import StepContext
from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.execution import Desk, as_penstock_error, ready_answer, spoilt
from penstock_runtime.execution_stream import end_stream, forward_responses
from penstock_runtime.observability.statistics import RequestTiming
from penstock_runtime.request import Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.sequence import Step, Turn
from penstock_runtime.sequence_controls import ControlPlan
from penstock_runtime.sequence_rows import blank_like, copied
from penstock_runtime.sequence_states import StatePlan
from penstock_runtime.tensor import to_host
from penstock_runtime.traced_stream import note_execution

Answer = Callable[[], object]


class StepPlan:
    """How the steps of one model's sequences are made and cut apart; `batched`: its tensors have a
    batch dimension.
    """

    def __init__(self, config: ModelConfig, rules: SequenceBatching, root: Path) -> None:
        self.model = config.name
        self.batched = config.max_batch_size > 0
        self.iterative = rules.iterative_sequence
        self.states = StatePlan(config, root)
        self.outputs = tuple(output.name for output in config.output)
        self._controls = ControlPlan(rules, batched=self.batched)

    def inputs(self, step: Step) -> dict[str, Any]:
        """The model's inputs for one step: a row each, zeros for one without a turn."""
        first = next(turn for turn in step.rows if turn is not None)
        inputs: dict[str, Any] = {}
        for name, like in first.pending.arrays.items():
            parts = [
                blank_like(like) if turn is None else turn.pending.arrays[name]
                for turn in step.rows
            ]
            inputs[name] = gather_rows(parts)
        inputs.update(self._controls.arrays(step))
        inputs.update(self.states.arrays(step))
        return inputs

    def blank(self, rows: int) -> dict[str, Any]:
        """Controls and states as a warm-up sees them."""
        return {**self._controls.blank(rows), **self.states.blank(rows)}

    def parts(self, step: Step, outputs: Arrays) -> list[dict[str, Any]]:
        """The outputs of each turn, in row order; Internal when rows are missing."""
        arrays = {name: to_host(outputs[name]) for name in self.outputs if name in outputs}
        for name in self.states.volatile & arrays.keys():
            arrays[name] = copied(arrays[name])
        rows = len(step.rows)
        for name, array in arrays.items():
            if self.batched and (not array.shape or array.shape[0] != rows):
                raise Internal(
                    f"output '{name}' of model '{self.model}' has shape {list(array.shape)}, "
                    f"expected {rows} rows",
                    failure=FailureReason.BACKEND,
                    scheduled=True,
                )
        if not self.batched:
            return [arrays]
        return [
            {name: array[row : row + 1] for name, array in arrays.items()}
            for row, turn in enumerate(step.rows)
            if turn is not None
        ]


def execute_step(desk: Desk, executable: Executable, plan: StepPlan, step: Step) -> None:
    """Execute a step and answer each request that is done."""
    start = time.monotonic_ns()
    try:
        answers = _compute(desk, executable, plan, step, start)
    except Exception as error:
        failure = as_penstock_error(desk.name, error)
        for turn in step.turns:
            turn.sequence.again = False
            desk.fail(turn.pending, failure, start)
        return
    for answer in answers:
        answer()
    desk.scheduler.answered(len(answers))


def _compute(
    desk: Desk, executable: Executable, plan: StepPlan, step: Step, start: int
) -> Sequence[Answer]:
    """Execute; what answers the requests that are done, in row order."""
    inputs = plan.inputs(step)
    contexts = _contexts(plan, step)
    merged = time.monotonic_ns()
    outputs = executable.execute(inputs, contexts)
    computed = time.monotonic_ns()
    own = [context for context in contexts if context.ready]
    # Before the states are kept: a model that broke a promise has taken no step.
    answers = _answers(desk, plan, step, outputs, own, (start, merged, computed))
    if plan.states:
        plan.states.keep(step, inputs, outputs)
    for turn, context in zip(step.turns, own, strict=True):
        turn.sequence.again = context.rescheduled
    done = [turn for turn in step.turns if not turn.sequence.again]
    _account(desk, step, done, spoilt(answers), (start, merged, computed))
    return answers


def _contexts(plan: StepPlan, step: Step) -> list[StepContext]:
    """A context per row; where there is no turn, that of another, which is not ready."""
    turns = step.turns
    return [StepContext(turn or turns[0], plan.iterative, turn is not None) for turn in step.rows]


def _answers(
    desk: Desk,
    plan: StepPlan,
    step: Step,
    outputs: Arrays,
    contexts: Sequence[StepContext],
    times: tuple[int, int, int],
) -> Sequence[Answer]:
    turns = step.turns
    done = [not context.rescheduled for context in contexts]
    if not any(done):
        return ()
    start, merged, computed = times
    answers: list[Answer] = []
    timed: list[tuple[Pending, Timing]] = []
    for turn, context, part in zip(turns, contexts, plan.parts(step, outputs), strict=True):
        if context.rescheduled:
            continue
        pending, timing = turn.pending, None
        if pending.stream.wants_timing:
            queue_ns = start - pending.arrived_ns
            input_ns, infer_ns = merged - start, computed - merged
            timing = Timing(queue_ns, input_ns, infer_ns, 0, len(turns), desk.name)
            timed.append((pending, timing))
        batch = Batch.of((pending,))
        (response,) = desk.plan.split(batch, part, [context.said], [timing])
        answers.append(ready_answer(pending, response))
    if timed:
        note_execution([p for p, _ in timed], [timing for _, timing in timed], len(turns))
    return answers


def _account(
    desk: Desk,
    step: Step,
    done: Sequence[Turn],
    lost: Mapping[Pending, FailureReason],
    times: tuple[int, int, int],
) -> None:
    """Count the execution, and the requests that it answers; rows without a turn do not count."""
    start, merged, computed = times
    end = time.monotonic_ns()
    desk.scheduler.predictor.observe(end - start)
    spent = []
    for turn in done:
        pending = turn.pending
        if pending.stream.cancelled or pending in lost:
            reason = lost.get(pending, FailureReason.CANCELED)
            desk.statistics.record_failure(reason, end - pending.arrived_ns)
        else:
            spent.append(RequestTiming(end - pending.arrived_ns, start - pending.arrived_ns, 1))
    desk.statistics.record_batch(
        len(step.turns), spent, merged - start, computed - merged, end - computed
    )


def execute_step_streaming(
    desk: Desk, executable: StreamingExecutable, plan: StepPlan, step: Step
) -> None:
    """Execute the turns of a decoupled model one by one, passing responses on as they come."""
    for turn in step.turns:
        start = time.monotonic_ns()
        try:
            _stream_turn(desk, executable, plan, turn, start)
        except Exception as error:
            turn.sequence.again = False
            desk.fail(turn.pending, as_penstock_error(desk.name, error), start)


def _stream_turn(
    desk: Desk, executable: StreamingExecutable, plan: StepPlan, turn: Turn, start: int
) -> None:
    step, pending = Step((turn,)), turn.pending
    context = StepContext(turn, plan.iterative, ready=True)
    inputs = plan.inputs(step)
    merged = time.monotonic_ns()
    left: dict[str, Any] = {}
    responses = _without_states(executable.stream(inputs, context), plan, left)
    with closing(responses):
        output_ns = forward_responses(
            desk, pending, context, responses, merged, lambda: context.rescheduled
        )
    if plan.states:
        plan.states.keep(step, inputs, left)
    if not context.rescheduled:
        end_stream(desk, pending, start, merged, output_ns)
        return
    turn.sequence.again = True
    end = time.monotonic_ns()
    desk.scheduler.predictor.observe(end - start)
    infer_ns = end - merged - output_ns
    desk.statistics.record_batch(1, (), merged - start, infer_ns, output_ns)


def _without_states(
    responses: Iterator[Arrays], plan: StepPlan, left: dict[str, Any]
) -> Generator[Mapping[str, Any], None, None]:
    """The responses as they go out; `left` gets the states, of which the last counts."""
    names, volatile = plan.states.output_names, plan.states.volatile
    try:
        for outputs in responses:
            left.update({name: outputs[name] for name in names if name in outputs})
            told = {name: outputs[name] for name in plan.outputs if name in outputs}
            for name in volatile & told.keys():
                told[name] = copied(told[name])
            if told or not names:
                yield told
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()
