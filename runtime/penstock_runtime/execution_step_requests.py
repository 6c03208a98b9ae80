"""Executing one step of sequences whose model is handed the requests themselves: each with its own
row of the inputs, controls among them.
"""

import time

from penstock_runtime.backends.base import RequestExecutable
from penstock_runtime.execution import Desk
from penstock_runtime.execution_requests import HeldTasks, hand_over, keep, make_task
from penstock_runtime.execution_sequence import StepPlan
from penstock_runtime.held_task import Run
from penstock_runtime.scheduling.sequence import Step


def hand_over_step(
    desk: Desk, executable: RequestExecutable, plan: StepPlan, step: Step, held: HeldTasks
) -> None:
    """Hand over the requests of a step. One that its model reschedules gets a further step; where a
    model raises, none does.
    """
    run = Run(desk, time.monotonic_ns())
    turns = step.turns
    tasks = [make_task(run, turn.pending) for turn in turns]
    for turn, task in zip(turns, tasks, strict=True):
        task.arrays = plan.inputs(Step((turn,)))
        task.iterative = plan.iterative
    if hand_over(run, executable, tasks, len(turns)):
        for turn, task in zip(turns, tasks, strict=True):
            turn.sequence.again = task.detach() if task.rescheduled else False
    else:
        for turn in turns:
            turn.sequence.again = False
    keep(held, tasks)
