"""Whether penstock reaches its floors beside Triton and C++ gRPC, on this machine, now.

    python -m benchmarks.floors [--quick] [--cases echo,mlp] [--record] [--plot docs/img/floors.svg]

Every server runs on one core and the load on another; they take turns in every round, and figures
are medians of the rounds. Servers that are not installed are named and left out. The exit code is 1
unless every floor of the chosen cases was measured and holds.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Finding, arguments, machine, publish
from benchmarks.side_by_side.cases import CASES, Case
from benchmarks.side_by_side.lineup import servers, wanted
from benchmarks.side_by_side.picture import picture
from benchmarks.side_by_side.readings import BROKEN, HOLDS
from benchmarks.side_by_side.rounds import Plan, measure
from benchmarks.side_by_side.tables import Result, finding_of, notes_of, overview, sentence
from benchmarks.startup import Starts
from benchmarks.startup import measure as measure_starts

STARTUP = "startup"
NAMES = (*(case.name for case in CASES), STARTUP)
READY_S, RESIDENT_MB = 0.5, 60.0
STARTS = 5
_FILES = 8192


def main(given: Sequence[str] | None = None) -> int:
    """Measure as the command line says."""
    parser = _parser()
    chosen = parser.parse_args(given)
    if chosen.quick and chosen.record:
        parser.error("--quick proves nothing that --record could keep, expected one of them")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core for the servers and one for the load are needed, there is one")
    # As at Ctrl-C, so that no server outlives us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    resource.setrlimit(resource.RLIMIT_NOFILE, _more_files())
    starts = _starts(chosen) if STARTUP in chosen.cases else None
    cases = [case for case in CASES if case.name in chosen.cases]
    results = _results(cases, chosen, cores) if cases else []
    held = _publish(results, starts, record=chosen.record)
    if chosen.plot:
        chosen.plot.parent.mkdir(parents=True, exist_ok=True)
        chosen.plot.write_text(picture(results, machine()))
    return 0 if held else 1


def _parser() -> argparse.ArgumentParser:
    parser = arguments("Measure penstock beside Triton and C++ gRPC, and judge its floors.")
    parser.add_argument("--cases", type=_names, default=NAMES, help=f"some of {','.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the ratios to Triton")
    parser.add_argument(
        "--gload",
        type=Path,
        metavar="PROGRAM",
        help="make the load with this instead of our own generator, where it can",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"no case {unknown[0]!r}, expected some of {NAMES}")
    return names


def _more_files() -> tuple[int, int]:
    """The limit on open files that idle connections need, in us and in the servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return max(soft, _FILES), hard
    return min(max(soft, _FILES), hard), hard


def _starts(chosen: argparse.Namespace) -> Starts:
    print(f"{STARTUP}: penstock http2 without torch", flush=True)
    return measure_starts(1 if chosen.quick else STARTS, "http2")


def _results(
    cases: Sequence[Case], chosen: argparse.Namespace, cores: Sequence[int]
) -> list[Result]:
    plan = Plan(
        rounds=1 if chosen.quick else chosen.rounds,
        seconds=0.5 if chosen.quick else chosen.seconds,
        warmup_s=0.2 if chosen.quick else 0.4,
        core=cores[1],
        other=chosen.gload,
    )
    with tempfile.TemporaryDirectory(prefix="floors-") as name:
        folder = Path(name)
        with servers(wanted(cases), folder, cores[0]) as lineup:
            found = measure(cases, lineup, plan, folder)
    return [Result(case, found[case.name]) for case in cases]


def _publish(results: Sequence[Result], starts: Starts | None, *, record: bool) -> bool:
    """Print everything, and record it if asked; whether all floors hold."""
    for result in results:
        print(f"\n{result.case.title}")
        publish(finding_of(result), record=record)
        for verdict in result.verdicts:
            print(f"  {sentence(verdict)}")
    if starts:
        print(f"\n{STARTUP}")
        publish(starts.finding("startup http2"), record=record)
    every = overview(results, _judge_starts(starts) if starts else ())
    print()
    publish(every, record=record)
    for note in notes_of(results):
        print(f"note: {note}")
    return _held(every)


def _judge_starts(starts: Starts) -> list[tuple[str, str, str]]:
    def row(floor: str, found: str, holds: bool) -> tuple[str, str, str]:
        return f"{STARTUP}: penstock http2 {floor}", found, HOLDS if holds else BROKEN

    seconds, memory = starts.median_s, starts.median_mb
    return [
        row(f"ready within {READY_S:g} s", f"{seconds:.2f} s", seconds <= READY_S),
        row(f"at most {RESIDENT_MB:g} MB idle", f"{memory:.0f} MB", memory <= RESIDENT_MB),
    ]


def _held(every: Finding) -> bool:
    return all(row[2] == HOLDS for row in every.rows)


if __name__ == "__main__":
    raise SystemExit(main())
