"""The committed table of what each kernel costs on each architecture: it may not grow unseen.

It says which source was measured, so that edited CUDA with an old table is found without NVRTC.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from penstock_kernels.nvrtc import OPTIONS
from penstock_kernels.source import digest, flattened

FOLDER = Path(__file__).parent / "built"
PATH = FOLDER / "table.json"

_ENTRY = re.compile(r"entry function '(\S+)' for")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one instance on one architecture; bytes, but for the registers of a thread."""

    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass(frozen=True, slots=True)
class Source:
    """What was made of one source: its digest, each instance's symbol, and cost by architecture."""

    digest: str
    symbols: dict[str, str]
    costs: dict[str, dict[str, Cost]]


@dataclass(frozen=True, slots=True)
class Table:
    """All sources, and the compiler that measured them."""

    nvrtc: str
    sources: dict[str, Source] = field(default_factory=dict)


def source_digest(source: str, instances: tuple[str, ...]) -> str:
    """Of everything that decides a cubin but the architecture and the compiler's version."""
    return digest(flattened(source), *instances, *OPTIONS)


def costs(log: str, symbols: Mapping[str, str]) -> dict[str, Cost]:
    """What ptxas said of each instance; KeyError when it said nothing of one."""
    said: dict[str, Cost] = {}
    name, stack, spilled = "", 0, 0
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            name, stack, spilled = entry[1], 0, 0
        elif frame := _SPILL.search(line):
            stack, spilled = int(frame[1]), int(frame[2]) + int(frame[3])
        elif used := _USED.search(line):
            shared = _SHARED.search(line)
            said[name] = Cost(int(used[1]), stack, spilled, int(shared[1]) if shared else 0)
    return {instance: said[symbol] for instance, symbol in symbols.items()}


def complaints(old: Table | None, new: Table) -> list[str]:
    """What speaks against the new table: spills, and more registers than before if it is the
    same compiler's.
    """
    found = [
        f"{instance} on sm_{arch} spills {cost.spilled} bytes, expected none"
        for _, instance, arch, cost in _rows(new)
        if cost.spilled
    ]
    if old is None or old.nvrtc != new.nvrtc:
        return found
    before = {(source, name, arch): cost for source, name, arch, cost in _rows(old)}
    for source, instance, arch, cost in _rows(new):
        was = before.get((source, instance, arch))
        if was is not None and cost.registers > was.registers:
            found.append(
                f"{instance} on sm_{arch} takes {cost.registers} registers, before {was.registers}"
            )
    return found


def _rows(table: Table) -> Iterator[tuple[str, str, str, Cost]]:
    for name, source in table.sources.items():
        for instance, by_arch in source.costs.items():
            for arch, cost in by_arch.items():
                yield name, instance, arch, cost


def read(path: Path = PATH) -> Table | None:
    """The table, or None where there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    sources = {
        name: Source(
            source["digest"],
            {instance: row["symbol"] for instance, row in source["instances"].items()},
            {
                instance: {arch: Cost(**cost) for arch, cost in row["costs"].items()}
                for instance, row in source["instances"].items()
            },
        )
        for name, source in content["sources"].items()
    }
    return Table(content["nvrtc"], sources)


def write(table: Table, path: Path = PATH) -> None:
    """Replace the table's file."""
    sources = {
        name: {
            "digest": source.digest,
            "instances": {
                instance: {
                    "symbol": source.symbols[instance],
                    "costs": {arch: asdict(cost) for arch, cost in by_arch.items()},
                }
                for instance, by_arch in source.costs.items()
            },
        }
        for name, source in table.sources.items()
    }
    text = json.dumps({"nvrtc": table.nvrtc, "sources": sources}, indent=1)
    # One cost, one line: a change of registers is read at a glance.
    path.write_text(re.sub(r"\{\s+(\"registers[^}]*?)\s+\}", _one_line, text) + "\n")


def _one_line(match: re.Match[str]) -> str:
    return "{" + " ".join(match[1].split()) + "}"
