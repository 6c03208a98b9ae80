"""What streamed responses cost above the transport, in microseconds of CPU, everything included.

    python -m benchmarks.stream_path [--inflight 1 8] [--model stream100] [--requests 1]

Calls of ModelStreamInfer without a port: each sends so many requests, takes what is written for
them and makes room for the next call. Pinned to one core, as the comparisons with other servers
are. `first` is the time from the start of a call to its first response.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import uvloop
from benchmarks.build_repository import REPOSITORY, build
from benchmarks.report import Finding, arguments, publish

from penstock.app import SWITCH_INTERVAL_S
from penstock.codec.request_encoder import encode_request
from penstock.config import ServerOptions
from penstock.parts import repository_options
from penstock.services import build_services
from penstock.transport.base import Metadata, StreamHandler
from penstock_runtime.assembly import open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.tensor import tensor

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
ROUNDS, ROUND_S = 5, 0.6
NOTHING: Mapping[str, str] = {}


class _Call:
    """A streaming call that no transport carries; it counts what is written."""

    method, peer, deadline_ns, metadata = PATH, "ipv4:127.0.0.1:1", None, NOTHING
    request: InferRequest | None = None
    response: InferResponse | None = None

    def __init__(self) -> None:
        self.written = 0
        self.began = time.perf_counter_ns()
        self.first_ns = 0

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Nobody looks at it."""

    @property
    def write(self) -> Callable[[bytes], Awaitable[None]]:
        """Counts a message."""
        return self._write

    @property
    def write_many(self) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        """Counts several messages."""
        return self._write_many

    async def _write(self, data: bytes) -> None:
        await self._write_many((data,))

    async def _write_many(self, messages: Sequence[bytes]) -> None:
        if not self.written:
            self.first_ns = time.perf_counter_ns() - self.began
        self.written += len(messages)

    def abort(self, error: PenstockError) -> None:
        """Nothing that is sent here deserves it."""
        raise SystemExit(f"aborted: {error}")


class _Messages:
    """The same request so many times, and then the end."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data = data
        self._left = count

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return self._data


@dataclass
class _Load:
    """Calls one after the other, several at a time."""

    handler: StreamHandler
    data: bytes
    requests: int
    responses: int = 0
    calls: int = 0
    running: bool = True

    def __post_init__(self) -> None:
        self.first_ns: list[int] = []

    async def caller(self) -> None:
        """One call after the other until told to stop."""
        while self.running:
            call = _Call()
            # A task for each call, as a transport makes it.
            await asyncio.create_task(self._call(call))
            self.responses += call.written
            self.calls += 1
            self.first_ns.append(call.first_ns)

    async def _call(self, call: _Call) -> None:
        await self.handler(_Messages(self.data, self.requests), call)


async def _measure(load: _Load, inflight: int) -> tuple[float, float, float]:
    """Microseconds of CPU a response (median of the rounds) and a call; median of `first`."""
    callers = [asyncio.create_task(load.caller()) for _ in range(inflight)]
    await asyncio.sleep(0.2)
    found, calls = [], []
    load.first_ns.clear()
    for _ in range(ROUNDS):
        responses, made, cpu = load.responses, load.calls, time.process_time()
        await asyncio.sleep(ROUND_S)
        spent = (time.process_time() - cpu) * 1e6
        found.append(spent / (load.responses - responses))
        calls.append(spent / (load.calls - made))
    load.running = False
    await asyncio.gather(*callers)
    return statistics.median(found), statistics.median(calls), statistics.median(load.first_ns)


async def _serve(options: argparse.Namespace) -> list[tuple[str, ...]]:
    server = ServerOptions(
        model_repository=(str(REPOSITORY),),
        model_control_mode="explicit",
        load_model=(options.model,),
    )
    repository = open_repository(repository_options(server))
    core = InferenceCore(repository)
    services = build_services(core, server)
    await asyncio.to_thread(repository.start)
    handler = next(m.stream for m in services.methods if m.path == PATH)
    assert handler is not None
    rows = np.zeros((1, options.width), np.float32)
    data = encode_request(InferRequest(options.model, (tensor("INPUT0", rows),)))
    found: list[tuple[str, ...]] = []
    try:
        for inflight in options.inflight:
            load = _Load(handler, data, options.requests)
            each, call, first = await _measure(load, inflight)
            numbers = f"{each:.2f}", f"{1e6 / each:,.0f}", f"{call:.0f}", f"{first / 1e3:.0f}"
            found.append((f"{options.model}, {inflight} in flight", *numbers))
    finally:
        await asyncio.to_thread(core.stop, 5.0)
        services.close()
    return found


def main() -> int:
    """Measure, print, and record if asked to."""
    parser = arguments("CPU of streamed responses above the transport.")
    parser.add_argument("--model", default="stream100")
    parser.add_argument("--width", type=int, default=16, help="elements of the input")
    parser.add_argument("--inflight", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=1, help="requests of each call")
    options = parser.parse_args()
    if not REPOSITORY.is_dir():
        build()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    rows = uvloop.run(_serve(options))
    head = ("case", "us a response", "responses/s", "us a call", "first, us")
    summary = "; ".join(f"{row[0]}: {row[1]} us, first after {row[4]} us" for row in rows)
    publish(Finding("stream path", head, rows, summary), record=options.record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
