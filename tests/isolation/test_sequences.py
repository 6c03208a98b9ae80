"""Models with sequences in processes of their own: they keep their states, and with a process its
sequences end, which their callers are told.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.isolation.delicate import pid_of
from tests.isolation.folders import wait_for

TENSORS = """
backend: "python"
max_batch_size: 2
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group { kind: KIND_PROCESS }
"""
STATE = """
sequence_batching { max_sequence_idle_microseconds: 60000000 direct { }
  state [ { input_name: "IN" output_name: "OUT" data_type: TYPE_INT32 dims: [ 1 ]
            initial_state { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ] }
"""
CONTROLS = """
sequence_batching { max_sequence_idle_microseconds: 60000000 MORE
  oldest { max_candidate_sequences: 2 }
  control_input [ { name: "C" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } ] }
"""
SUMS = "def predict(X, IN):\n    return {'Y': IN + X, 'OUT': IN + X}\n"
OWN = """
import triton_python_backend_utils as pb_utils

SUMS, STEPS = {}, ITERATIVE

def of(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        name, start = int(of(request, "C")[0, 0]), request.flags() & 1
        SUMS[name] = SUMS.get(name, 0) * (STEPS or not start) + of(request, "X")
        if STEPS and SUMS[name] < 5:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return None
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", SUMS[name])])
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """States that the server keeps, a state that the model keeps, and steps of one request."""
    root: Path = tmp_path_factory.mktemp("sequences")
    write(root, "kept", SUMS, TENSORS + STATE)
    own, iterative = (
        CONTROLS.replace("MORE", ""),
        CONTROLS.replace("MORE", "iterative_sequence: true"),
    )
    write(root, "own", OWN.replace("ITERATIVE", "0"), TENSORS + own)
    write(root, "steps", OWN.replace("ITERATIVE", "1"), TENSORS + iterative)
    with ServerThread(options([root])) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def step(client: Any, model: str, identity: int, value: int, **flags: bool) -> int:
    """The answer to one request of a sequence."""
    given = tensors(X=np.full((1, 1), value, np.int32))
    answer = client.infer(model, given, sequence_id=identity, client_timeout=20, **flags)
    return int(answer.as_numpy("Y")[0, 0])


START, END = {"sequence_start": True}, {"sequence_end": True}


@pytest.mark.parametrize("model", ["kept", "own"])
def test_states_are_kept_apart(client: Any, model: str) -> None:
    """By whoever keeps them."""
    found = [step(client, model, i, 10 * i, **START) for i in (1, 2)]
    found += [step(client, model, i, 1) for i in (1, 2)]
    found += [step(client, model, i, 1, **END) for i in (1, 2)]

    assert found == [10, 20, 11, 21, 12, 22]


def test_a_request_has_as_many_steps_as_it_wants(client: Any) -> None:
    """The process says so, and is handed it again."""
    assert step(client, "steps", 4, 2, **START, **END) == 6


@pytest.mark.parametrize("model", ["kept", "own"])
def test_sequences_end_with_their_process(running: Running, client: Any, model: str) -> None:
    """Never does one go on with a state that is not its own: who comes again has to begin; those of
    others go on.
    """
    other = "own" if model == "kept" else "kept"
    step(client, model, 7, 5, **START)
    step(client, other, 8, 5, **START)
    killed = pid_of(running, model)
    os.kill(killed, signal.SIGKILL)
    assert wait_for(lambda: pid_of(running, model) not in (0, killed))

    with pytest.raises(triton.InferenceServerException) as refused:
        step(client, model, 7, 1)

    assert "must specify the START flag" in refused.value.message()
    assert step(client, model, 7, 2, **START, **END) == 2
    assert step(client, other, 8, 1, **END) == 6
