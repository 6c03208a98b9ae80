"""Sequence batchers and requests for them, made with few words."""

from dataclasses import replace
from typing import Any

from tests.runtime.fakes import config

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import (
    SequenceBatching,
    SequenceControl,
    SequenceControlInput,
    SequenceDirect,
    SequenceOldest,
)
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.sequence import Step
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher, SequenceLimits
from penstock_runtime.scheduling.sequence_direct import DirectSlots
from penstock_runtime.scheduling.sequence_ids import SequenceIds
from penstock_runtime.scheduling.sequence_oldest import OldestSlots
from penstock_runtime.scheduling.sequence_slots import Slots
from penstock_runtime.stream import ResponseStream

SECOND = 1_000_000_000


def ask(
    identity: int | str = 1,
    flags: str = "",
    *,
    at: int = 0,
    deadline: int | None = None,
    timeout_us: int = 0,
    rows: int = 1,
    signature: object = None,
) -> Pending:
    """A request of a sequence; S in `flags` is its START and E its END."""
    request = InferRequest(
        "m",
        (),
        deadline_ns=deadline,
        timeout_us=timeout_us,
        correlation_id=identity,
        sequence_start="S" in flags,
        sequence_end="E" in flags,
    )
    return Pending(request, ResponseStream(), batch_size=rows, arrived_ns=at, signature=signature)


def control(kind: str, name: str = "", datatype: DataType | None = None) -> SequenceControlInput:
    """A control input; with a datatype it carries ids."""
    pair = () if datatype else (0, 1)
    one = SequenceControl(f"CONTROL_SEQUENCE_{kind}", int32_false_true=pair, data_type=datatype)
    return SequenceControlInput(name or kind, (one,))


CONTROLS = (control("START"), control("READY"), control("END"))


def model(rules: SequenceBatching, max_batch: int = 4) -> ModelConfig:
    """A model with these rules."""
    return replace(config(max_batch=max_batch, dims=(1,)), sequence_batching=rules)


def batcher(
    slots: int = 2,
    instances: int = 1,
    *,
    oldest: SequenceOldest | None = None,
    direct: SequenceDirect | None = None,
    max_batch: int = 4,
    rules: SequenceBatching | None = None,
    iterative: bool = False,
    **limits: Any,
) -> SequenceBatcher:
    """A batcher of so many slots per instance; direct unless `oldest` rules."""
    made: list[Slots] = [
        DirectSlots(slots, direct or SequenceDirect())
        if oldest is None
        else OldestSlots(max_batch, oldest)
        for _ in range(instances)
    ]
    batching = rules or SequenceBatching(iterative_sequence=iterative)
    ids = SequenceIds(model(batching), batching)
    return SequenceBatcher(made, slots, ids, SequenceLimits(**limits), iterative=iterative)


def add(decider: SequenceBatcher, *pendings: Pending) -> None:
    """Add each at the time of its arrival."""
    for pending in pendings:
        decider.add(pending, pending.arrived_ns)


def layout(step: Step | None) -> list[Pending | None]:
    """The requests of a step by rows."""
    assert step is not None
    return [None if turn is None else turn.pending for turn in step.rows]


def run(decider: SequenceBatcher, now: int = 0, instance: int = 0) -> list[Pending]:
    """Everything that the instance executes until it has to wait, in order."""
    ran: list[Pending] = []
    while (step := decider.take(instance, now)) is not None:
        ran += [turn.pending for turn in step.turns]
        decider.done(instance, now)
    return ran
