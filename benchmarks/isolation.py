"""What it costs that a model has a process of its own: one server, the same identity in it and
apart, small requests and such of 10 MB, in turns.

    python -m benchmarks.isolation [--rounds 3] [--seconds 2]

Requests per second of CPU, that of the model's process counted with the server's; and how long a
process takes from kill -9 to ready.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from benchmarks.server import running

from penstock import AsyncClient, Client

CODE = """
from penstock_runtime.model_api import FP32

def predict(x: FP32[-1]) -> FP32[-1]:
    return x
"""
KINDS = {"here": "KIND_CPU", "apart": "KIND_PROCESS"}


@dataclass(frozen=True, slots=True)
class Case:
    """Numbers of a request, and calls in flight."""

    name: str
    size: int
    calls: int


CASES = (Case("echo, 64 B", 16, 32), Case("identity, 10 MB", 2_500_000, 2))


def write_models(root: Path) -> None:
    """The same model twice."""
    for name, kind in KINDS.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(CODE)
        config = f"instance_group [ {{ kind: {kind} count: 1 }} ]\n"
        (root / name / "config.pbtxt").write_text(config)


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and all under it."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return sum(used.user + used.system for used in times)


async def load(url: str, model: str, case: Case, seconds: float) -> int:
    """So many calls in flight for so long; how many were answered."""
    inputs = {"x": np.zeros(case.size, np.float32)}
    until = time.monotonic() + seconds
    count = 0

    async def call(client: AsyncClient) -> None:
        nonlocal count
        while time.monotonic() < until:
            await client.infer(model, inputs)
            count += 1

    async with AsyncClient(url) as client:
        await asyncio.gather(*(call(client) for _ in range(case.calls)))
    return count


def per_cpu_second(url: str, pid: int, model: str, case: Case, seconds: float) -> float:
    """Requests of a second of CPU, after a while of the same."""
    asyncio.run(load(url, model, case, seconds / 4))
    before = cpu_s(pid)
    count = asyncio.run(load(url, model, case, seconds))
    return count / (cpu_s(pid) - before)


def restart_s(url: str, pid: int) -> float:
    """Seconds from the kill of the model's process until its model is ready again."""
    (child,) = psutil.Process(pid).children()
    with Client(url) as client:
        began = time.monotonic()
        os.kill(child.pid, signal.SIGKILL)
        while client.model_ready("apart"):
            time.sleep(0.0005)
        while not client.model_ready("apart"):
            time.sleep(0.002)
        return time.monotonic() - began


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        with running(Path(folder)) as server:
            url, pid = server.url, server.pid
            for case in CASES:
                rates: dict[str, list[float]] = {name: [] for name in KINDS}
                for _ in range(chosen.rounds):
                    for name in KINDS:
                        rate = per_cpu_second(url, pid, name, case, chosen.seconds)
                        rates[name].append(rate)
                here, apart = (statistics.median(rates[name]) for name in KINDS)
                print(
                    f"{case.name}: {here:.0f} requests per CPU-second here, {apart:.0f} apart,"
                    f" {apart / here:.2f} of it"
                )
            times = [restart_s(url, pid) for _ in range(chosen.rounds)]
            print(f"back after kill -9: {statistics.median(times):.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
