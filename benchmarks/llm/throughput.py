"""Tokens per second of CPU: all engines answer the same prompts, in turns."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.llm.lineup import CB16, CB32, OURS, SERVED, VLLM, Setting, contestants
from benchmarks.llm.workers import Contestant, Turn
from benchmarks.llm.workload import Workload
from benchmarks.peers.process import PeerError
from benchmarks.report import Finding

Turns = dict[str, list[Turn]]
_WARM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """At least so many times what the better of these does, for each second of CPU."""

    times: float
    against: Sequence[str]
    label: str


GOALS = (Goal(2.5, (CB16, CB32), "transformers CB"), Goal(1.0, (VLLM,), VLLM))


def compare(
    names: Sequence[str], setting: Setting, workload: Workload, rounds: int, folder: Path
) -> Turns:
    """The turns of every engine that can be had. One that fails is told about and left out."""
    found: Turns = {}
    with contestants(names, setting, folder) as ready:
        for number in range(-1, rounds):
            warms = number < 0
            prompts = workload.prompts(max(number, 0))
            count = _WARM_TOKENS if warms else workload.max_tokens
            # There and back, so that nobody always comes first.
            for name in list(ready) if number % 2 == 0 else list(ready)[::-1]:
                turn = _turn(name, ready, prompts, count)
                if turn is not None and not warms:
                    found.setdefault(name, []).append(turn)
    return {name: found[name] for name in names if name in found}


def _turn(
    name: str, ready: dict[str, Contestant], prompts: list[list[int]], count: int
) -> Turn | None:
    try:
        turn = ready[name].turn(prompts, count)
        if turn.tokens != len(prompts) * count:
            raise PeerError(f"it gave {turn.tokens} tokens, expected {len(prompts) * count}")
    except (PeerError, OSError, ValueError) as error:
        print(f"  {name}: no turn: {error}", flush=True)
        del ready[name]
        return None
    return turn


def per_cpu_s(turns: Sequence[Turn]) -> float:
    """The median of tokens per second of CPU."""
    return statistics.median(turn.per_cpu_s for turn in turns)


def ratio(turns: Mapping[str, Sequence[Turn]], ours: str, against: Sequence[str]) -> float | None:
    """How many times the better of those ours does; None where one was not measured."""
    theirs = [per_cpu_s(turns[name]) for name in against if turns.get(name)]
    if not theirs or not turns.get(ours):
        return None
    return per_cpu_s(turns[ours]) / max(theirs)


def agreement(turns: Mapping[str, Sequence[Turn]], name: str, truth: str) -> str:
    """How many answers of all rounds equal those of another engine, token by token."""
    if name == SERVED or not turns.get(truth):
        return "-"
    pairs = [
        mine == theirs
        for own, other in zip(turns[name], turns[truth], strict=False)
        for mine, theirs in zip(own.answers, other.answers, strict=True)
    ]
    return f"{sum(pairs)}/{len(pairs)}"


def finding_of(dtype: str, turns: Turns, workload: Workload) -> Finding:
    """The table, and what is worth keeping of it."""
    head = ("engine", "tok/cpu-s", "range", "tok/s", "x transformers", "x vLLM", "as transformers")
    rows = [
        (
            name,
            f"{per_cpu_s(own):.0f}",
            f"{min(t.per_cpu_s for t in own):.0f}-{max(t.per_cpu_s for t in own):.0f}",
            f"{statistics.median(t.per_s for t in own):.0f}",
            _times(ratio(turns, name, (CB16, CB32))),
            _times(ratio(turns, name, (VLLM,))),
            agreement(turns, name, CB32),
        )
        for name, own in turns.items()
    ]
    what = f"{len(workload.lengths)} requests, {workload.n_prompt} + "
    what += f"{workload.max_tokens * len(workload.lengths)} tokens"
    figures = ", ".join(f"{name} {per_cpu_s(own):.0f}" for name, own in turns.items())
    return Finding(f"llm {dtype}", head, rows, f"{what}; tok/cpu-s: {figures}")


def verdicts(turns: Turns) -> list[tuple[str, bool]]:
    """What is said of each goal whose engines were measured, and whether it is kept."""
    found = []
    for goal in GOALS:
        times = ratio(turns, OURS, goal.against)
        if times is not None:
            kept = times >= goal.times
            text = f"{times:.2f}x {goal.label}, goal {goal.times:g}x"
            found.append((f"{text}: {'kept' if kept else 'not kept'}", kept))
    return found


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
