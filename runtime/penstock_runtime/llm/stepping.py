"""How steps are computed: as a whole, in parts where that fails, and on a device one ahead of what
the host knows of the last.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from penstock_runtime.backends.lost_device import lost_device
from penstock_runtime.llm.endings import Failed, step_failure
from penstock_runtime.llm.engine_seams import (
    AheadChooser,
    Chooser,
    Drawn,
    FedRunner,
    RowResult,
    Runner,
)
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.step import StepPlan

_log = logging.getLogger("penstock.llm")


@dataclass(slots=True)
class Step:
    """A plan, and how far it has come: `logits` of its rows, `drawn` tokens on their way. With
    neither, all is left to do.
    """

    plan: StepPlan
    began_ns: int
    logits: Any = None
    drawn: Drawn | None = None


class Steps:
    """Computes steps one by one."""

    def __init__(self, runner: Runner, chooser: Chooser) -> None:
        self._runner = runner
        self._chooser = chooser
        self.lost = ""
        """How the device was lost to this process; nothing as long as it was not."""

    def launch(self, plan: StepPlan, last: Step | None, now: int) -> Step:  # noqa: ARG002
        """Begin a step. Where its `drawn` is set the next may be launched before its results are
        asked for. `last` is one whose results nobody has asked for yet.
        """
        return Step(plan, now)

    def results(self, step: Step) -> Sequence[RowResult]:
        """What it comes to, row by row. All that was launched before has been asked for."""
        return self._compute(step.plan)

    def forget(self, sequence: Tokens) -> None:
        """The sequence is over."""
        self._chooser.forget(sequence)

    def _compute(self, plan: StepPlan) -> Sequence[RowResult]:
        """The results of a plan. Where it cannot be computed as a whole its halves are, and so on:
        what one sequence breaks, and what does not fit into memory at once, is no harm to others.
        """
        try:
            return self._chooser.sample(plan, self._runner.run(plan))
        except Exception as error:
            _log.exception("a step of %d sequences failed", len(plan.rows))
            self.lost = self.lost or lost_device(error)
            half = len(plan.rows) // 2
            # What is lost is so for each of them.
            if self.lost or not half:
                return tuple(Failed(step_failure(error)) for _ in plan.rows)
        parts = (StepPlan(plan.rows[:half]), StepPlan(plan.rows[half:]))
        return tuple(chain.from_iterable(map(self._compute, parts)))


class StepsAhead(Steps):
    """Computes steps on a device, which has the next one before the last one's tokens are known to
    the host: they go from step to step where they are.
    """

    def __init__(self, runner: FedRunner, chooser: AheadChooser) -> None:
        super().__init__(runner, chooser)
        self._fed = runner
        self._ahead = chooser

    def launch(self, plan: StepPlan, last: Step | None, now: int) -> Step:
        """Enqueue it behind the last; what fails here is done again when its results are wanted."""
        step = Step(plan, now)
        feed = last.drawn.feed if last is not None and last.drawn is not None else None
        try:
            step.logits = self._fed.run(plan, feed)
            step.drawn = self._ahead.begin(plan, step.logits)
        except Exception:
            _log.exception("a step of %d sequences failed on its way", len(plan.rows))
        return step

    def results(self, step: Step) -> Sequence[RowResult]:
        """Of drawn tokens, those; an error is that of the device, and the step is lost."""
        if step.drawn is not None:
            return step.drawn.results()
        if step.logits is not None:
            try:
                return self._chooser.sample(step.plan, step.logits)
            except Exception:
                _log.exception("a step of %d sequences could not be drawn", len(step.plan.rows))
        return self._compute(step.plan)
