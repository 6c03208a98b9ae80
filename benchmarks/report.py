"""What a benchmark found: a table on the terminal, and with --record a row in docs/RECORD.md."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from penstock.cli.terminal import table

RECORD = Path(__file__).resolve().parent.parent / "docs" / "RECORD.md"
HEAD = "| date | benchmark | result | machine | command |"
RULE = "|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Finding:
    """The table of one benchmark, and in `summary` the figures that are worth keeping."""

    benchmark: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--record", action="store_true", help="add a row to docs/RECORD.md")
    return parser


def publish(finding: Finding, *, record: bool) -> None:
    """Print the table; with `record` keep its summary."""
    print(table(finding.head, finding.rows, numbers=range(1, len(finding.head))))
    if record:
        day = datetime.now(UTC).date().isoformat()
        cells = (day, finding.benchmark, finding.summary, machine(), command())
        text = RECORD.read_text() if RECORD.is_file() else "# Measured\n"
        RECORD.write_text(with_row(text, f"| {' | '.join(cells)} |"))


def with_row(text: str, row: str) -> str:
    """The document with one more row at the end of our table, which it gets if it has none."""
    lines = text.rstrip("\n").split("\n")
    if HEAD not in lines:
        lines += ["", HEAD, RULE]
    at = lines.index(HEAD)
    while at < len(lines) and lines[at].startswith("|"):
        at += 1
    return "\n".join([*lines[:at], row, *lines[at:]]) + "\n"


def machine() -> str:
    """Processors and their name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} x {names[0] if names else platform.processor()}"


def command() -> str:
    """What was typed."""
    script = Path(sys.argv[0])
    module = f"benchmarks.{script.parent.name if script.stem == '__main__' else script.stem}"
    typed = [word for word in sys.argv[1:] if word != "--record"]
    return f"`{' '.join(['python -m', module, *typed])}`"


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median and range of several runs."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{middle:.{digits}f} {unit} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"
