"""What the HTTP/2 transport costs by itself: an echo through quick calls, without a model.

    python -m benchmarks.http2_adapter --load gload [--only serve]

The load generator is any program that takes `--target --path -c -m -d -w --pids --body` and prints
JSON with `rps` and `server_cpu_s_per_1k`. The server runs on one core, the load on another.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Finding, arguments, publish

from penstock.app import loop_factory
from penstock.transport.base import Buffer, Method, QuickCall
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport

PATH = "/bench.Echo/Echo"
ROUNDS = 5
SECONDS = 1.5
SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class Case:
    """One load: bytes of a message, connections, calls in flight on each."""

    label: str
    size: int
    connections: int
    streams: int


CASES = (
    Case("92 B, 8 x 4 in flight", 92, 8, 4),
    Case("92 B, 128 x 1 in flight", 92, 128, 1),
    Case("92 B, 1 x 1 in flight", 92, 1, 1),
    Case("1 MiB, 8 x 1 in flight", 1 << 20, 8, 1),
)


def echo(data: Buffer, call: QuickCall) -> None:
    call.reply((data,))


async def serve(address: str) -> None:
    """Serve until killed; tells its address."""
    transport = Http2Transport((Method(PATH, submit=echo),), Http2Options((address,)))
    print((await transport.start())[0], flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """A server in a process of its own, on a core of its own; its address and process id."""
    command = [sys.executable, "-m", "benchmarks.http2_adapter", "--only", "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        yield address, process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(load: str, case: Case, address: str, pid: int, body: Path) -> tuple[float, float]:
    """Calls per second, and per second of the server's CPU; the median of several rounds."""
    body.write_bytes(b"\0" + case.size.to_bytes(4) + bytes(case.size))
    command = [load, "--target", address, "--path", PATH, "--body", str(body)]
    command += ["-c", str(case.connections), "-m", str(case.streams), "-d", str(SECONDS)]
    command += ["-w", "0.4", "--pids", str(pid)]
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            ["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, check=True
        )
        said = json.loads(done.stdout)
        if said["errors"]:
            raise RuntimeError(f"{case.label}: {said['errors']} calls failed")
        found.append((said["rps"], 1000 / said["server_cpu_s_per_1k"]))
    rates, per_cpu = zip(*found, strict=True)
    return statistics.median(rates), statistics.median(per_cpu)


def main() -> None:
    parser = arguments("what the HTTP/2 transport costs by itself")
    parser.add_argument("--load", default="gload", help="the load generator")
    parser.add_argument("--only", choices=("serve",), help="serve, and load nothing")
    parser.add_argument("--address", default="127.0.0.1:0", help="where to serve")
    chosen = parser.parse_args()
    if chosen.only:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(chosen.address))
        return
    rows = []
    with serving() as (address, pid), tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            rate, per_cpu = measure(chosen.load, case, address, pid, Path(folder) / "body")
            rows.append((case.label, f"{rate:,.0f}", f"{per_cpu:,.0f}"))
    summary = f"{rows[0][2]} calls per second of CPU ({rows[0][0]}), 1 MiB: {rows[-1][2]}"
    head = ("echo", "calls/s", "calls/cpu-s")
    publish(Finding("http2_adapter", head, rows, summary), record=chosen.record)


if __name__ == "__main__":
    main()
