"""Laws of one process: what the model in it sees, and how it begins, is watched and ends."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.isolation.folders import is_there, wait_for, write_model

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelParameter,
)
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    InstanceDied,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
)
from penstock_runtime.isolation.executables import IsolatedExecutable
from penstock_runtime.isolation.settings import HEARTBEAT, MEMORY
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.stream import ResponseStream

INPUT = ModelInput("x", DataType.FP32, (-1,))
OUTPUT = ModelOutput("OUTPUT0", DataType.FP32, (-1,))
ECHO = "def predict(x: FP32[-1]) -> FP32[-1]: return x"


def source_of(root: Path, code: str, **parameters: object) -> ModelSource:
    """The source of a model with this code."""
    folder = write_model(root, "m", code)
    config = ModelConfig(
        name="m",
        instance_group=(InstanceGroup(kind="KIND_PROCESS"),),
        parameters={key: ModelParameter(str(value)) for key, value in parameters.items()},
    )
    return ModelSource(config, 1, folder, folder.parent)


@contextmanager
def started(root: Path, code: str, **parameters: object) -> Iterator[IsolatedExecutable]:
    """One instance of it; it is asked for its configuration unless it is the usual one."""
    source = source_of(root, code, **parameters)
    backend = default_registry().find(source)
    usual = "(x: FP32[" in code and "-> FP32[" in code and "@model" not in code
    if usual:
        config = replace(source.config, backend="python", input=(INPUT,), output=(OUTPUT,))
    else:
        config = backend.complete(source)
    source = replace(source, config=config)
    loaded = backend.load(source)
    try:
        yield cast(IsolatedExecutable, loaded.executable(Placement("m_0_0", process=True)))
    finally:
        loaded.close()


def context(**fields: Any) -> RequestContext:
    """A request."""
    return RequestContext(InferRequest("m", (), **fields), ResponseStream())


def ask(made: Executable, **inputs: Any) -> Any:
    """The one output for these inputs."""
    (output,) = made.execute(inputs, [context()]).values()
    return output


def test_the_code_of_a_model_is_not_even_read_in_this_process(tmp_path: Path) -> None:
    """Its configuration comes from the process, and so do the answers."""
    pids = """
    OUR = os.getpid()
    def predict(x: INT64[1]) -> INT64[2]: return np.array([OUR, os.getpid()])
    """
    with started(tmp_path, pids) as made:
        outputs = ask(made, x=np.array([1]))

        assert outputs.tolist() == [made.pid, made.pid]
    assert made.pid is None


def test_a_model_sees_of_its_request_what_it_would_see_here(tmp_path: Path) -> None:
    """Id, parameters, headers, deadline, outputs, rows; and what it says goes back."""
    code = """
    @model(max_batch_size=8)
    def predict(x: FP32[1], contexts: list[Context]) -> BYTES[1]:
        told = []
        for c in contexts:
            c.response_parameters["seen"] = c.id
            told += [repr((c.id, dict(c.parameters), dict(c.headers), c.time_remaining() > 50,
                          c.requested_outputs, c.cancelled)).encode()] * c.batch_size
        return np.array(told, dtype=object)[:, None]
    """
    deadline = time.monotonic_ns() + 100 * 10**9
    rows = np.zeros((2, 1), np.float32)
    first = context(
        id="a",
        parameters={"p": 1, "q": "r"},
        headers={"h": "v"},
        deadline_ns=deadline,
        outputs=(RequestedOutput("OUTPUT0"),),
    )
    second = context(id="b", deadline_ns=deadline)
    with started(tmp_path, code) as made:
        outputs = made.execute({"x": rows}, [first, second])["OUTPUT0"]

    assert outputs[:, 0].tolist() == [
        b"('a', {'p': 1, 'q': 'r'}, {'h': 'v'}, True, ('OUTPUT0',), False)",
        b"('b', {}, {}, True, (), False)",
    ]
    assert (dict(first.said), dict(second.said)) == ({"seen": "a"}, {"seen": "b"})


def test_a_model_hears_that_its_caller_gave_up(tmp_path: Path) -> None:
    """A long execution looks at its context, and returns early."""
    code = """
    def predict(x: FP32[1], context: Context) -> FP32[1]:
        (HERE / "begun").touch()
        while not context.cancelled:
            time.sleep(0.005)
        return x
    """
    stream = ResponseStream()
    asked = RequestContext(InferRequest("m", ()), stream)
    with started(tmp_path, code) as made:

        def give_up() -> None:
            wait_for((tmp_path / "m/1/begun").exists)
            stream.cancel()

        waiting = threading.Thread(target=give_up)
        waiting.start()

        outputs = made.execute({"x": np.ones(1, np.float32)}, [asked])

        waiting.join()
    assert outputs["OUTPUT0"].tolist() == [1.0]


def test_views_that_a_model_keeps_stay_as_they_were(tmp_path: Path) -> None:
    """Memory of a request is not used for another while anything refers to it; then it is."""
    code = """
    KEPT = []
    def predict(x: FP32[-1], keep: FP32[1]) -> FP32[2]:
        if keep[0]:
            KEPT.append(x[::2])
        else:
            KEPT.clear()
        return np.array([sum(float(k[0]) for k in KEPT), x[-1]], np.float32)
    """
    yes, no = np.ones(1, np.float32), np.zeros(1, np.float32)
    with started(tmp_path, code) as made:
        memory = made.keeper._life.memory  # type: ignore[union-attr]
        for value in (1, 2, 4):
            outputs = ask(made, x=np.full(20_000, value, np.float32), keep=yes)
        held = memory.arena.used
        ask(made, x=np.full(20_000, 8, np.float32), keep=no)
        given_back = wait_for(lambda: memory.arena.used == 0)

    assert outputs.tolist() == [7.0, 4.0]
    assert held >= 3 * 80_000
    assert given_back


@pytest.mark.parametrize("limit", [0, 1 << 20, 1 << 30])
def test_arrays_of_any_size_go_through_whatever_may_be_shared(tmp_path: Path, limit: int) -> None:
    """What does not fit into shared memory goes through the socket."""
    with started(tmp_path, ECHO, **{MEMORY: limit}) as made:
        for size in (0, 1, 5000, 700_000):
            array = np.arange(size, dtype=np.float32)
            np.testing.assert_array_equal(ask(made, x=array), array)
        size = made.keeper._life.memory.size  # type: ignore[union-attr]

    assert size <= 2 * limit


def test_more_than_fits_is_refused_and_the_process_goes_on(tmp_path: Path) -> None:
    """Neither here nor there does a message that is too large do any harm."""
    code = "def predict(n: INT64[1]) -> UINT8[-1]: return np.zeros(int(n[0]), np.uint8)"
    with started(tmp_path, code, **{MEMORY: 0}) as made:
        with pytest.raises(ResourceExhausted, match="more than fit into a message"):
            ask(made, n=np.array([65 << 20]))
        answer = ask(made, n=np.array([3]))

    assert answer.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("raise ValueError('/a/b/c is broken')", PenstockError, "<path> is broken"),
        ("import sys; sys.exit(4)", PenstockError, "SystemExit"),
        ("os._exit(5)", InstanceDied, "exit code 5"),
        ("def predict(x): return x", InvalidArgument, "x"),
    ],
)
def test_a_model_that_does_not_load_says_why(
    tmp_path: Path, code: str, kind: type[PenstockError], words: str
) -> None:
    """With the model's own words, and without a path."""
    source = source_of(tmp_path, code)

    with pytest.raises(kind) as caught:
        default_registry().find(source).complete(source)

    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_an_instance_that_dies_at_its_load_has_failed_to_load(tmp_path: Path) -> None:
    """It is not tried again then: whoever asked for the load is told."""
    code = """
    class Model:
        def load(self): os._exit(6)
        def predict(self, x: FP32[1]) -> FP32[1]: return x
    """
    with (
        pytest.raises(Internal, match="exit code 6 while it loaded the model") as caught,
        started(tmp_path, code),
    ):
        pass

    assert caught.value.reason == "LOAD_FAILED"


def test_what_a_model_raises_is_its_answer(tmp_path: Path) -> None:
    """The first line, as it would be here; and the process goes on."""
    code = """
    def predict(x: FP32[1]) -> FP32[1]:
        if x[0] < 0:
            raise RuntimeError("negative /etc/some/where")
        return x
    """
    with started(tmp_path, code) as made:
        pid = made.pid
        with pytest.raises(Internal, match=r"^negative <path>$") as caught:
            ask(made, x=np.array([-1], np.float32))
        answer = ask(made, x=np.array([1], np.float32))

        assert (answer.tolist(), made.pid) == ([1.0], pid)
    assert caught.value.reason == "MODEL_FAILED"


def test_a_process_that_stands_still_is_found_by_its_heartbeat(tmp_path: Path) -> None:
    """Without a sign of life for as long as the parameter says, it is ended."""
    with started(tmp_path, ECHO, **{HEARTBEAT: 1}) as made:
        first = made.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)

        with pytest.raises(InstanceDied, match="no sign of life for 1 s"):
            ask(made, x=np.zeros(1, np.float32))
        back = made.revive()

        assert back
        assert made.pid not in (None, first)
        assert made.restarts == 1


def test_what_a_process_prints_and_logs_is_in_the_log_with_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both streams, a line each, and records of its own loggers."""
    code = """
    import logging
    def predict(x: FP32[1]) -> FP32[1]:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        logging.getLogger("mine").warning("to the log")
        return x
    """
    wanted = ("to stdout", "to stderr", "to the log")
    with caplog.at_level(logging.INFO, "penstock.model"), started(tmp_path, code) as made:
        ask(made, x=np.zeros(1, np.float32))

        assert wait_for(lambda: all(f"m_0_0: {text}" in caplog.text for text in wanted))


def test_the_unload_hook_runs_and_a_process_that_will_not_end_is_made_to(tmp_path: Path) -> None:
    """A model that ends does so itself; one that has a signal blocked is killed."""
    code = """
    class Model:
        def predict(self, x: FP32[1]) -> FP32[1]: return x
        def unload(self): (HERE / "unloaded").touch()
    """
    with started(tmp_path, code) as made:
        pid = made.pid

    assert (tmp_path / "m/1/unloaded").exists()
    assert pid is not None
    assert not is_there(pid)


def test_nothing_is_left_of_lives_that_are_over(tmp_path: Path) -> None:
    """No descriptor, no thread, no child: whether they were killed or closed."""
    large, small = np.zeros(100_000, np.float32), np.zeros(1, np.float32)
    with started(tmp_path, ECHO) as made:
        ask(made, x=large)
        before = _held()
        for _ in range(4):
            assert made.pid is not None
            os.kill(made.pid, signal.SIGKILL)
            with pytest.raises(InstanceDied):
                ask(made, x=small)
            # Its own patience is for others to test.
            made.keeper._backoff._deaths = 0
            assert made.revive()
            ask(made, x=large)

        assert wait_for(lambda: _held() <= before)


def _held() -> tuple[int, int, int]:
    """Descriptors, threads, and children of this process."""
    gc.collect()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)


ORPHAN = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
from tests.isolation.test_process import context, started

CODE = '''
def predict(x: FP32[1]) -> FP32[1]:
    (HERE / "pid").write_text(str(os.getpid()))
    sum(range(1 << 62))
    return x
'''
root = Path(sys.argv[1])
with started(root, CODE) as made:
    asking = threading.Thread(
        target=lambda: made.execute({"x": np.zeros(1, np.float32)}, [context()]), daemon=True
    )
    asking.start()
    while not (root / "m/1/pid").exists():
        time.sleep(0.005)
    time.sleep(0.02)
    os._exit(0)
"""


def test_a_process_ends_with_its_server_even_if_it_hears_nothing(tmp_path: Path) -> None:
    """The kernel ends it, also one that never lets go of its interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    subprocess.run(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], env=environment, check=True, timeout=60
    )
    pid = int((tmp_path / "m/1/pid").read_text())

    assert wait_for(lambda: not is_there(pid) or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    """Whether only its new parent has not looked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_executions_of_two_processes_run_at_the_same_time(tmp_path: Path) -> None:
    """Neither waits for the other, nor for this process."""
    code = """
    def predict(x: FP32[1]) -> FP32[1]:
        (HERE / f"here-{int(x[0])}").touch()
        while not (HERE / f"here-{1 - int(x[0])}").exists():
            time.sleep(0.005)
        return x
    """
    answers: list[list[float]] = []
    with started(tmp_path, code) as one, started(tmp_path, code) as other:
        calls = [
            threading.Thread(
                target=lambda made=made, value=value: answers.append(
                    ask(made, x=np.array([value], np.float32)).tolist()
                )
            )
            for made, value in ((one, 0), (other, 1))
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join(30)

    assert sorted(answers) == [[0.0], [1.0]]
