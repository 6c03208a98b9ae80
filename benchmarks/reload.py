"""Reloads a model while many clients call it: failed calls, wrong answers, memory.

    python -m benchmarks.reload

Every load has new code that says which load it is of, and holds 8 MB. An answer is wrong if its
numbers are, or if it is of a load before the last one that was finished when the call began.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks.report import Finding, arguments, publish
from benchmarks.server import Measured, running

from penstock import AsyncClient, InferenceError
from penstock.bench.histogram import Histogram
from penstock.client.retry import NO_RETRIES

MODEL = "reloaded"
CODE = '''"""Written by the benchmark: twice the input, and the number of this load."""

import numpy as np

from penstock import INT32, model

BALLAST = np.ones(1_000_000)


@model(max_batch_size=8)
def reloaded(INPUT0: INT32[4]) -> tuple[INT32[4], INT32[1]]:
    return INPUT0 * 2, np.full((len(INPUT0), 1), {load}, np.int32)
'''
WARM_S = 2.0
SETTLED_S = 2.0


@dataclass(slots=True)
class Tally:
    """What happened so far; `finished` and `begun` are numbers of loads."""

    finished: int = 0
    begun: int = 0
    wrong: int = 0
    failed: int = 0
    ended: bool = False
    latencies_ns: list[int] = field(default_factory=list)
    loads_ns: list[int] = field(default_factory=list)
    first_failure: str = ""


async def call_on(client: AsyncClient, tally: Tally, seed: int) -> None:
    """One client: the next call as soon as the last one is answered."""
    values = np.arange(4, dtype=np.int32).reshape(1, 4) + seed
    while not tally.ended:
        oldest, began = tally.finished, time.perf_counter_ns()
        try:
            answer = await client.infer(MODEL, {"INPUT0": values})
        except InferenceError as error:
            tally.failed += 1
            tally.first_failure = tally.first_failure or str(error)
            continue
        tally.latencies_ns.append(time.perf_counter_ns() - began)
        load = int(answer["OUTPUT1"][0, 0])
        right = np.array_equal(answer["OUTPUT0"], values * 2) and oldest <= load <= tally.begun
        tally.wrong += not right


async def reload(client: AsyncClient, tally: Tally, repository: Path, reloads: int) -> None:
    """Write new code and have it loaded, again and again."""
    for _ in range(reloads):
        tally.begun += 1
        write_model(repository, tally.begun)
        began = time.perf_counter_ns()
        await client.load(MODEL)
        tally.loads_ns.append(time.perf_counter_ns() - began)
        tally.finished = tally.begun


def write_model(repository: Path, load: int) -> None:
    """The code of this load, in place of the code before."""
    folder = repository / MODEL / "1"
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / ".model.py"
    fresh.write_text(CODE.format(load=load))
    fresh.rename(folder / "model.py")


async def measure(server: Measured, repository: Path, reloads: int, clients: int) -> Finding:
    """Warm up, reload under load, let it settle, and compare the memory before and after."""
    tally = Tally()
    async with AsyncClient(server.url, retries=NO_RETRIES) as client:
        callers = [asyncio.create_task(call_on(client, tally, i)) for i in range(clients)]
        await asyncio.sleep(WARM_S)
        before = server.resident_mb()
        await reload(client, tally, repository, reloads)
        tally.ended = True
        await asyncio.gather(*callers)
    await asyncio.sleep(SETTLED_S)
    return _finding(tally, before, server.resident_mb(), clients)


def _finding(tally: Tally, before: float, after: float, clients: int) -> Finding:
    calls, loads = sorted(tally.latencies_ns), sorted(tally.loads_ns)
    rows = [
        (f"calls of {clients} clients", f"{len(calls)}"),
        ("failed", f"{tally.failed} {tally.first_failure}".strip()),
        ("wrong", f"{tally.wrong}"),
        ("latency p50, p99", _milliseconds(calls)),
        ("reloads", f"{len(loads)}"),
        ("duration of a reload p50, p99", _milliseconds(loads)),
        ("resident memory before, after", f"{before:.0f} MB, {after:.0f} MB"),
    ]
    summary = (
        f"{len(loads)} reloads under {len(calls)} calls: {tally.failed} failed, {tally.wrong}"
        f" wrong; {before:.0f} MB before, {after:.0f} MB after"
    )
    return Finding("reload", ("", "found"), rows, summary)


def _milliseconds(latencies: list[int]) -> str:
    histogram = Histogram()
    histogram.add_all(latencies)
    p50, p99 = (each / 1e6 for each in histogram.percentiles((0.5, 0.99)))
    return f"{p50:.1f} ms, {p99:.1f} ms"


def main() -> None:
    """Measure as the command line says."""
    parser = arguments("Reload a model under load.")
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_model(repository, 0)
        flags = ("--model-control-mode=explicit", f"--load-model={MODEL}")
        with running(repository, *flags) as server:
            finding = asyncio.run(measure(server, repository, chosen.reloads, chosen.clients))
    publish(finding, record=chosen.record)


if __name__ == "__main__":
    main()
