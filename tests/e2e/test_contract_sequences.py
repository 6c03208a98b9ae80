"""Rules of the sequence batcher that no example program shows: who waits for whom, and with what a
sequence begins.
"""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually

TENSORS = """
max_batch_size: 2
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
IDLE = "sequence_batching {{ max_sequence_idle_microseconds: 60000000 {} }}"
LONG = "max_queue_delay_microseconds: 60000000"
# How many rows were executed together.
ROWS = "def predict(X):\n    return {'Y': X * 0 + len(X)}\n"
CONTROLS = """
control_input [
  { name: "S" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ -1, 2 ] } ] },
  { name: "E" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
  { name: "R" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 5 ] } ] },
  { name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT32 } ] }
]
"""
# Start, end, readiness and id in one number.
TOLD = """
import numpy as np


def predict(X, S, E, R, C):
    assert (S.dtype, E.dtype, R.dtype, C.dtype) == (np.float32, np.bool_, np.int32, np.uint32)
    told = 1000 * (S > 0) + 100 * E + 10 * R + C
    return {"Y": told.astype(np.int32)}
"""
STATE = """
state [ {
  input_name: "IN" output_name: "OUT" data_type: TYPE_INT32 dims: [ -1 ]
  use_growable_memory: true
  initial_state { name: "first" data_type: TYPE_INT32 dims: [ 2 ] data_file: "first" }
} ]
direct { }
"""
# Remembers all that it was sent, behind what it began with.
KEEPS = """
import numpy as np


def predict(X, IN):
    kept = np.concatenate([IN, X], axis=1)
    return {"Y": kept.sum(axis=1, keepdims=True, dtype=np.int32), "OUT": kept}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model for each rule."""
    root = tmp_path_factory.mktemp("sequences")
    direct = f"direct {{ minimum_slot_utilization: 1.0 {LONG} }}"
    write(root, "direct", ROWS, TENSORS + IDLE.format(direct))
    oldest = f"oldest {{ max_candidate_sequences: 2 preferred_batch_size: [ 2 ] {LONG} }}"
    write(root, "oldest", ROWS, TENSORS + IDLE.format(oldest))
    write(root, "told", TOLD, TENSORS + IDLE.format("direct { } " + CONTROLS))
    folder: Path = write(root, "keeps", KEEPS, TENSORS + IDLE.format(STATE))
    (folder / "initial_state").mkdir()
    (folder / "initial_state" / "first").write_bytes(np.array([100, 200], np.int32).tobytes())
    with ServerThread(options([root])) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def number(value: int) -> list[Any]:
    """One row."""
    return tensors(X=np.full((1, 1), value, np.int32))


@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_a_batch_waits_for_its_share_of_sequences(client: Any, model: str) -> None:
    """`minimum_slot_utilization` of the slots, or a preferred size of the oldest: with a delay of a
    minute, one alone would not be answered in the time of a test.
    """
    answers: queue.Queue[Any] = queue.Queue()
    for identity in (1, 2):
        client.async_infer(
            model,
            number(0),
            lambda result, error: answers.put(error or int(result.as_numpy("Y")[0, 0])),
            sequence_id=identity,
            sequence_start=True,
            sequence_end=True,
        )

    assert [answers.get(timeout=20) for _ in range(2)] == [2, 2]


def test_the_hook_of_tritons_tests_holds_the_backlog_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRITONSERVER_BACKLOG_DELAY_SCHEDULER=1: nothing before a request waits for a slot."""
    config = TENSORS.replace("size: 2", "size: 1") + IDLE.format("direct { }")
    write(tmp_path, "one", ROWS, config)
    monkeypatch.setenv("TRITONSERVER_BACKLOG_DELAY_SCHEDULER", "1")
    answers: queue.Queue[Any] = queue.Queue()
    flags = {"sequence_start": True, "sequence_end": True}
    with (
        ServerThread(options([tmp_path])) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        for identity in (1, 2):
            assert answers.empty()
            client.async_infer(
                "one",
                number(0),
                lambda result, error: answers.put((result, error)),
                sequence_id=identity,
                **flags,
            )
            if identity == 1:
                eventually(lambda: running.server.core.inflight == 1, "it waits")
        found = [answers.get(timeout=20) for _ in range(2)]

    assert [error for _, error in found] == [None, None]


def test_controls_have_the_types_and_values_of_the_configuration(client: Any) -> None:
    """Each of its own; the id as a number."""

    def step(**flags: bool) -> int:
        answer = client.infer("told", number(0), sequence_id=7, **flags)
        return int(answer.as_numpy("Y")[0, 0])

    assert step(sequence_start=True) == 1057
    assert step() == 57
    assert step(sequence_end=True) == 157


def test_a_sequence_begins_with_its_file_and_its_state_grows(client: Any) -> None:
    """Another sequence begins with the file again."""

    def step(identity: int, value: int, **flags: bool) -> int:
        answer = client.infer("keeps", number(value), sequence_id=identity, **flags)
        return int(answer.as_numpy("Y")[0, 0])

    start, end = {"sequence_start": True}, {"sequence_end": True}
    assert [step(1, 1, **start), step(1, 2), step(1, 3)] == [301, 303, 306]
    assert step(2, 5, **start, **end) == 305
    assert step(1, 4, **end) == 310
