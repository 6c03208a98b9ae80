"""The rounds of a comparison: in each, every server has its turn at every load, so that whatever
else the machine does meets all of them alike.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.probe import bodies
from benchmarks.peers.process import pinned
from benchmarks.side_by_side.cases import Case, Load
from benchmarks.side_by_side.idle import idle_connections, lost
from benchmarks.side_by_side.lineup import Entry, Server
from benchmarks.side_by_side.readings import Reading, reading_of

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = (sys.executable, "-m", "benchmarks.side_by_side.load")
SERVICE = "/inference.GRPCInferenceService/"
_PATIENCE_S = 60.0

Readings = dict[str, list[Reading]]
"""The rounds of one case, for each server."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long (s), on which core the load runs, and what makes it: our own
    generator, or `other` where it can do what the load asks for.
    """

    rounds: int
    seconds: float
    warmup_s: float
    core: int
    other: Path | None = None


def measure(
    cases: Sequence[Case], lineup: Mapping[Entry, Server], plan: Plan, folder: Path
) -> dict[str, Readings]:
    """The readings of every case by its name. A turn that fails is told about and left out."""
    found: dict[str, Readings] = {case.name: {} for case in cases}
    for number in range(plan.rounds):
        for case in cases:
            print(f"round {number + 1} of {plan.rounds}: {case.title}", flush=True)
            # There and back, so that nobody always comes first.
            for peer in case.peers if number % 2 == 0 else case.peers[::-1]:
                server = lineup.get((peer, case.load.secure))
                if server is None:
                    continue
                try:
                    reading = turn(case, server, plan, folder)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    print(f"  {peer}: no reading: {error}", flush=True)
                else:
                    found[case.name].setdefault(peer, []).append(reading)
    return found


def turn(case: Case, server: Server, plan: Plan, folder: Path) -> Reading:
    """One window of one load on one server."""
    load = case.load
    requests = written(load, folder)
    with _idle(server, load.idle) as gone:
        words = command(case, server, plan, requests)
        with pinned(plan.core):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT)
        try:
            printed = process.communicate(timeout=plan.seconds + plan.warmup_s + _PATIENCE_S)[0]
        finally:
            process.kill()
            process.wait()
        resident = server.running.resident_mb()
    figures = json.loads(printed)
    for text, count in list(figures.get("error_kinds", {}).items())[:3]:
        print(f"  {count} calls failed: {text}", flush=True)
    return reading_of(figures, resident, sum(gone))


def written(load: Load, folder: Path) -> list[Path]:
    """A file for each request that the load sends in turn."""
    paths = []
    for number, body in enumerate(bodies(load.model, load.shape, load.texts)):
        path = folder / f"{load.model}-{load.shape[1]}-{number}"
        if not path.exists():
            path.write_bytes(body)
        paths.append(path)
    return paths


def command(case: Case, server: Server, plan: Plan, requests: Sequence[Path]) -> list[str]:
    """What makes the load."""
    load = case.load
    ours = plan.other is None or load.fresh or load.secure
    pids = ",".join(str(pid) for pid in server.running.pids())
    words = list(OWN) if ours else [str(plan.other)]
    words += ["--target", server.url, "--pids", pids]
    words += [word for request in requests for word in ("--body", str(request))]
    words += ["--path", SERVICE + ("ModelStreamInfer" if load.responses > 1 else "ModelInfer")]
    words += ["-c", str(load.connections), "-m", str(load.calls_each)]
    words += ["-d", str(plan.seconds), "-w", str(plan.warmup_s)]
    words += ["--expect-msgs", str(load.responses)]
    words += ["--fresh"] if load.fresh else []
    return words + (["--root", str(server.root)] if server.root else [])


@contextlib.contextmanager
def _idle(server: Server, count: int) -> Iterator[list[int]]:
    """Idle connections while the block runs; at its end the list tells how many were lost."""
    gone: list[int] = []
    if not count:
        yield gone
        return
    with idle_connections(server.url, count) as opened:
        yield gone
        gone.append(lost(opened))
