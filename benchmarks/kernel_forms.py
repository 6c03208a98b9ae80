"""The two forms of a kernel beside each other, scalars and tensor cores: which is faster where, and
whether the plan chooses it.

    python -m benchmarks.kernel_forms [--out FOLDER]

Writes kernel_forms.json. On a CPU both are the NumPy reference with small sizes: that shows that
everything runs, and nothing of a GPU.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.kernel_cases import Arguments, decodes, products
from benchmarks.kernels import Machine, counted, machine, ours, timed
from benchmarks.report import Finding, publish

from penstock_kernels import registry
from penstock_kernels.forms import MMA, SCALAR

# Nearer than this the forms are alike, and no reason to change a choice.
_ALIKE = 1.05


@dataclass(frozen=True, slots=True)
class Work:
    """One call that both forms can serve."""

    kernel: str
    label: str
    make: Callable[[torch.device, bool], Arguments]


@dataclass(frozen=True, slots=True)
class Found:
    """Microseconds of both forms, the share of the memory's bandwidth that each has (None on a
    CPU), and the form that the plan chooses.
    """

    work: str
    scalar_us: float
    mma_us: float
    scalar_share: float | None
    mma_share: float | None
    chosen: str

    @property
    def faster(self) -> str:
        """The form that took less time; the chosen one if both are alike."""
        apart = max(self.scalar_us, self.mma_us) / min(self.scalar_us, self.mma_us)
        if apart < _ALIKE:
            return self.chosen
        return SCALAR if self.scalar_us < self.mma_us else MMA


def _attention(
    rows: int, context: int, group: int, dim: int = 128, stored: torch.dtype = torch.float16
) -> Work:
    kind = str(stored).removeprefix("torch.")
    label = f"{rows} x {context}, {group} of {dim}, {kind}"
    return Work("paged_decode", label, decodes(rows, context, stored, group, dim))


_FP8, _INT8 = torch.float8_e4m3fn, torch.int8
WORKS = (
    *(_attention(64, 2048, group) for group in (1, 2, 4, 8, 16)),
    *(_attention(64, 2048, group, 128, kind) for kind in (_FP8, _INT8) for group in (1, 4, 8)),
    *(_attention(64, 2048, group, 64, kind) for kind in (torch.float16, _FP8) for group in (1, 8)),
    *(_attention(64, 2048, 2, 256, kind) for kind in (torch.float16, _FP8)),
    _attention(256, 48, 4),
    _attention(1, 8192, 4),
    _attention(1, 8192, 4, 128, _FP8),
    *(
        Work("gemv", f"int{bits}, {rows} of 4096 by {outputs}", products(rows, bits, outputs))
        for bits in (8, 4)
        for outputs in (28672, 4096)
        for rows in (1, 2, 8)
    ),
)


def chosen(work: Work, arguments: Arguments) -> str:
    """The form of the call's plan; of a plan the arrays' forms are all that matters."""
    first = registry.kernel(work.kernel).launches(arguments)[0]
    return MMA if "_mma<" in first.instance else SCALAR


def measure(work: Work, device: torch.device, of: Machine) -> Found:
    """Both forms on the same arguments."""
    arguments = work.make(device, device.type != "cuda")
    sizes = {name: counted(value) for name, value in arguments.items()}
    least = registry.kernel(work.kernel).traffic(**sizes).bytes

    def us(form: str) -> float:
        return timed(ours({**arguments, "form": form}, work.kernel, device), device)

    def share(spent: float) -> float | None:
        return least / spent * 1e6 / of.bandwidth if of.bandwidth else None

    scalar, mma = us(SCALAR), us(MMA)
    label = f"{work.kernel}, {work.label}"
    return Found(label, scalar, mma, share(scalar), share(mma), chosen(work, arguments))


def verdict(found: Sequence[Found]) -> str:
    """What plans should choose instead, or that they choose well."""
    wrong = [f"{one.work}: {one.faster}" for one in found if one.faster != one.chosen]
    if not wrong:
        return f"the plans chose the faster form in all {len(found)} cases"
    return "the plans should choose " + "; ".join(wrong)


def row(found: Found) -> list[str]:
    """One line of the table."""
    shares = ("-" if of is None else f"{of:.0%}" for of in (found.scalar_share, found.mma_share))
    one, other = shares
    times = (f"{found.scalar_us:.1f}", one, f"{found.mma_us:.1f}", other)
    return [found.work, *times, found.faster, found.chosen]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), metavar="FOLDER")
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of = machine(device)
    found = [measure(work, device, of) for work in WORKS]
    head = ("kernel", "scalar us", "of memory", "mma us", "of memory", "faster", "chosen")
    print(of.name)
    publish(Finding("kernel forms", head, [row(one) for one in found], ""), record=False)
    said = verdict(found) if of.bandwidth else "a CPU says nothing of which is faster"
    print(said)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [asdict(one) | {"faster": one.faster} for one in found]
    document = {"machine": asdict(of), "forms": rows, "verdict": said}
    (given.out / "kernel_forms.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
