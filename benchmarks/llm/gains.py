"""What our engine gains by two things that it can leave: the cache of prefixes where requests begin
alike, and guessing tokens where text repeats itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.llm.lineup import OURS, Setting
from benchmarks.llm.throughput import compare, per_cpu_s
from benchmarks.llm.workload import ALONE, STANDARD, SYSTEM, Workload
from benchmarks.report import Finding


@dataclass(frozen=True, slots=True)
class Gain:
    """The same workload without and with an option."""

    title: str
    workload: Workload
    option: dict[str, Any]


# The random model falls into loops within a few tokens: its text could not be more repetitive.
GAINS = (
    Gain("200 shared tokens, prefix cache", SYSTEM, {"prefix_caching": True}),
    Gain("repetitive text, 1 request, n-gram guesses", ALONE, {"speculative_method": "ngram"}),
    Gain("repetitive text, 16 requests, n-gram guesses", STANDARD, {"speculative_method": "ngram"}),
)


def measure(setting: Setting, rounds: int, folder: Path, gains: Sequence[Gain] = GAINS) -> Finding:
    """A row for each gain."""
    rows, said = [], []
    for number, gain in enumerate(gains):
        place = folder / str(number)
        without = _tokens(setting, gain.workload, rounds, place / "without")
        chosen = replace(setting, more=gain.option)
        having = _tokens(chosen, gain.workload, rounds, place / "with")
        if without and having:
            rows.append((gain.title, f"{without:.0f}", f"{having:.0f}", f"{having / without:.2f}x"))
            said.append(f"{gain.title} {having / without:.2f}x")
    head = ("penstock, engine", "without, tok/cpu-s", "with", "gain")
    return Finding(f"llm gains {setting.dtype}", head, rows, "; ".join(said))


def _tokens(setting: Setting, workload: Workload, rounds: int, folder: Path) -> float | None:
    turns = compare([OURS], setting, workload, rounds, folder).get(OURS)
    return per_cpu_s(turns) if turns else None
