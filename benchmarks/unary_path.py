"""What a small ModelInfer costs above the transport, in microseconds of CPU, everything included.

    python -m benchmarks.unary_path [--inflight 32] [--fresh-id] [--deadline 1]

A whole server without a port: quick calls are submitted in turns of the event loop, pass through
decoding, validation, queue, instance thread and encoding, and come back as bytes. Pinned to one
core, as the comparisons with other servers are.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import uvloop
from benchmarks.build_repository import REPOSITORY, build
from benchmarks.report import Finding, publish, spread

from penstock.codec.request_encoder import encode_request
from penstock.config import ServerOptions
from penstock.drain import StopRequest
from penstock.server import Server
from penstock.status import Answer
from penstock.transport.base import Buffer, Message, Metadata, QuickHandler
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.tensor import tensor

INFER = "/inference.GRPCInferenceService/ModelInfer"
ROUNDS, ROUND_S = 5, 0.6
NOTHING: Mapping[str, str] = {}


class _Call:
    """A quick call that no transport carries; it makes the next one when it is answered."""

    __slots__ = ("deadline_ns", "load", "on_cancel", "request", "response")
    method, peer, metadata = INFER, "ipv4:127.0.0.1:1", NOTHING

    def __init__(self, load: "_Load", deadline_ns: int | None) -> None:
        self.load = load
        self.deadline_ns = deadline_ns
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None
        self.on_cancel: Callable[[], None] | None = None

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Nobody looks at it."""

    async def write(self, data: bytes) -> None:
        """Unary calls do not write."""

    async def write_many(self, messages: object) -> None:
        """Unary calls do not write."""

    def abort(self, error: PenstockError) -> None:
        """Unary calls are not aborted."""

    def reply(self, message: Message) -> None:
        """Counted, and followed by the next call."""
        self.load.answered(len(message))

    def refuse(self, answer: Answer) -> None:
        """Nothing that is sent here deserves it."""
        raise SystemExit(f"refused: {answer.text}")


class _Load:
    """So many calls in flight, submitted again at the end of the turn that answered them."""

    def __init__(
        self, submit: QuickHandler, data: bytes, fresh_id: bool, deadline_s: float
    ) -> None:
        self._submit = submit
        self._deadline_ns = int(deadline_s * 1e9)
        self._data = data
        self._fresh = fresh_id
        self._due = 0
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self.done = 0
        self.running = True

    def start(self, count: int) -> None:
        """Begin with so many calls."""
        self._due = count
        self._turn()

    def answered(self, size: int) -> None:
        """One call is over."""
        self.done += size > 0
        if not self._due:
            self._loop.call_soon(self._turn)
        self._due += 1

    def _turn(self) -> None:
        due, self._due = self._due, 0
        for _ in range(due if self.running else 0):
            end = time.monotonic_ns() + self._deadline_ns if self._deadline_ns else None
            self._submit(self._body(), _Call(self, end))

    def _body(self) -> Buffer:
        if not self._fresh:
            return self._data
        self._number += 1
        return self._data + b"\x1a\x0a%010d" % self._number


async def _measure(submit: QuickHandler, data: bytes, options: argparse.Namespace) -> list[float]:
    load = _Load(submit, data, options.fresh_id, options.deadline)
    load.start(options.inflight)
    found = []
    for _ in range(ROUNDS):
        done, cpu = load.done, time.process_time()
        await asyncio.sleep(ROUND_S)
        found.append((time.process_time() - cpu) / (load.done - done) * 1e6)
    load.running = False
    await asyncio.sleep(0.05)
    return found


async def _serve(options: argparse.Namespace) -> list[float]:
    server = Server(
        ServerOptions(
            model_repository=(str(REPOSITORY),),
            model_control_mode="explicit",
            load_model=(options.model,),
            grpc_port=0,
            allow_metrics=False,
        ),
        StopRequest(),
    )
    await asyncio.to_thread(server.repository.start)
    submit = next(m.submit for m in server.services.methods if m.path == INFER)
    assert submit is not None
    rows = np.zeros((1, options.width), np.float32)
    data = encode_request(InferRequest(options.model, (tensor("INPUT0", rows),)))
    try:
        return await _measure(submit, data, options)
    finally:
        await asyncio.to_thread(server.core.stop, 5.0)
        server.services.close()


def main() -> int:
    """Measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description="CPU of a small request above the transport.")
    parser.add_argument("--record", action="store_true", help="add a row to docs/RECORD.md")
    parser.add_argument("--model", default="echo")
    parser.add_argument("--width", type=int, default=16, help="elements of the input")
    parser.add_argument("--inflight", type=int, default=32)
    parser.add_argument("--fresh-id", action="store_true", help="another id in every request")
    parser.add_argument("--deadline", type=float, default=0.0, help="seconds (0: none)")
    options = parser.parse_args()
    if not Path(REPOSITORY).is_dir():
        build()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = uvloop.run(_serve(options))
    row = (options.model, f"{statistics.median(found):.1f}", f"{min(found):.1f}")
    summary = f"{options.model}, {options.inflight} in flight: {spread(found, 'us', 1)}"
    publish(
        Finding("CPU above the transport", ("model", "us a request", "best"), [row], summary),
        record=options.record,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
