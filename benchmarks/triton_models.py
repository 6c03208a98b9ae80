"""Whether models written for Triton's Python backend answer here as they do in Triton.

    python -m benchmarks.triton_models

Both servers are given the same folders (tests/triton_python/models) and the same requests; outputs
have to be equal, errors of the same status and with the same words of the model. The exit code is 1
unless all are.
"""

import argparse
import contextlib
import os
import queue
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from benchmarks.peers.process import Launch, PeerError, Running, started
from benchmarks.peers.triton import launch_triton
from benchmarks.side_by_side.lineup import free_port
from tests.triton_python.serving import MODELS, ask, tensors, text
from tritonclient.utils import InferenceServerException

READY_S = 120.0
# What the calls of the others need comes with them.
NAMES = (
    *("add_sub", "completes", "strings", "errors", "calls", "repeat", "square", "streams"),
    *("senders", "counts", "facts", "halves"),
)
A = np.array([[1.0, 2.0, 3.0]], np.float32)
B = np.array([[10.0, 20.0, 30.0]], np.float32)
# In Triton every call that fails is INTERNAL for the model that made it.
_STATUS = "the status of a call that fails is kept"


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and whether it is streamed."""

    model: str
    inputs: dict[str, Any]
    streamed: bool = False
    differs: str = ""
    """Why the two answer differently, where they do so on purpose."""


def cases() -> Iterator[Case]:
    """Every request that both are given."""
    yield Case("add_sub", {"INPUT0": A, "INPUT1": B})
    yield Case("completes", {"X": A})
    words = np.array([["grün".encode(), b"", b"x" * 300]], dtype=np.object_)
    yield Case("strings", {"TEXT": words})
    for code in (*range(8), 100, -1, -2):
        yield Case("errors", {"CODE": np.array([[code]], np.int32)})
    for mode in ("sync", "async", "unknown", "short"):
        why = _STATUS if mode in ("unknown", "short") else ""
        inputs = {"MODE": text(mode).reshape(1, 1), "INPUT0": A, "INPUT1": B}
        yield Case("calls", inputs, differs=why)
    for count in (0, 1, 5):
        yield Case("repeat", {"IN": np.arange(count, dtype=np.int32)}, streamed=True)
        yield Case("square", {"IN": np.array([count], np.int32)}, streamed=True)
    for mode in ("sync", "async", "wrong"):
        why = _STATUS if mode == "wrong" else ""
        inputs = {"MODE": text(mode), "IN": np.arange(9, dtype=np.int32)}
        yield Case("streams", inputs, differs=why)
    for number in (2, 3):
        yield Case("senders", {"X": np.array([[number]], np.int32)})
    yield Case("counts", {"X": np.array([4.0], np.float32)})
    yield Case("halves", {"X": A, "H": ((A.view(np.uint32) >> 16).astype(np.uint16),)})
    yield Case("facts", {"X": np.zeros(1, np.float32)})


def main(given: Sequence[str] | None = None) -> int:
    """Compare."""
    argparse.ArgumentParser(description=__doc__).parse_args(given)
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        found = []
        for name, make in (("triton", _triton), ("penstock", _penstock)):
            port = free_port()
            running = stack.enter_context(
                started(make(folder / name, port), folder / f"{name}.run", core)
            )
            found.append(_answers(running, f"127.0.0.1:{port}"))
    return _judge(*found)


def _triton(folder: Path, port: int) -> Launch:
    folder.mkdir()
    made = launch_triton(folder, port, NAMES, cached=False, source=MODELS)
    return Launch([*made.words, "--model-control-mode=none"], made.environment)


def _penstock(_folder: Path, port: int) -> Launch:
    words = [sys.executable, "-m", "penstock", "serve", str(MODELS), "--grpc-address=127.0.0.1"]
    words += [f"--grpc-port={port}", "--allow-metrics=false", "--log-info=false"]
    words += ["--model-control-mode=explicit", *(f"--load-model={name}" for name in NAMES)]
    return Launch(words)


def _answers(running: Running, url: str) -> list[str]:
    with triton.InferenceServerClient(url) as client:
        _wait_until_ready(running, client)
        return [_answer(client, case) for case in cases()]


def _wait_until_ready(running: Running, client: Any) -> None:
    until = time.monotonic() + READY_S
    while True:
        running.check()
        with contextlib.suppress(InferenceServerException):
            if all(client.is_model_ready(name) for name in NAMES):
                return
        if time.monotonic() > until:
            raise PeerError(f"not ready after {READY_S:g} s: {running.log.read_text()[-2000:]}")
        time.sleep(0.1)


def _answer(client: Any, case: Case) -> str:
    """What a request is answered, in one line."""
    try:
        if case.streamed:
            return " | ".join(_streamed(client, case))
        return _shown(ask(client, case.model, case.inputs))
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"


def _streamed(client: Any, case: Case) -> Iterator[str]:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer(
            case.model, tensors(case.inputs), enable_empty_final_response=True
        )
        while True:
            result, error = answers.get(timeout=20)
            if error is not None:
                raise error
            last = result.get_response().parameters["triton_final_response"].bool_param
            yield f"{_shown(result)}{' final' if last else ''}"
            if last:
                return
    finally:
        client.stop_stream()


def _shown(result: Any) -> str:
    response = result.get_response()
    parts = []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name != "FACTS":
            parts.append(f"{output.name} {output.datatype}{list(output.shape)} {raw.hex()}")
        else:
            parts.append(raw[4:].decode())
    parameters = {
        key: value
        for key, value in sorted(response.parameters.items())
        if not key.startswith("triton_")
    }
    return " ".join([*parts, " ".join(str({k: str(v)}) for k, v in parameters.items())]).strip()


def _judge(theirs: Sequence[str], ours: Sequence[str]) -> int:
    different = 0
    for case, their, our in zip(cases(), theirs, ours, strict=True):
        same = _same(their, our)
        different += not same and not case.differs
        shown = {k: np.asarray(v).reshape(-1)[:3].tolist() for k, v in case.inputs.items()}
        word = "same" if same else f"differs: {case.differs}" if case.differs else "DIFFERENT"
        print(f"{case.model} {shown}: {word}")
        if not same:
            print(f"    triton:   {their[:600]}\n    penstock: {our[:600]}")
    print(f"{len(ours)} requests, {different} answered differently")
    return 1 if different else 0


def _same(theirs: str, ours: str) -> bool:
    """Equal; of errors the status, and the words of ours within theirs."""
    if theirs == ours:
        return True
    status, _, words = ours.partition(": ")
    if not status.startswith("StatusCode.") or not theirs.startswith(status):
        return False
    return words.rpartition("] ")[2].rstrip(" .") in theirs


if __name__ == "__main__":
    sys.exit(main())
