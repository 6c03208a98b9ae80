"""The two forms of paged attention beside each other: which is faster where, and whether the plan
chooses it.

    python -m benchmarks.decode_forms [--out FOLDER]

Writes decode_forms.json. On a CPU both are the NumPy reference with small sizes: that shows that
everything runs, and nothing of a GPU.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import torch
from benchmarks.kernel_cases import decodes
from benchmarks.kernels import Machine, counted, machine, ours, timed
from benchmarks.report import Finding, publish

from penstock_kernels.decode_form import FORMS, MMA, SCALAR, decode_form
from penstock_kernels.paged_decode import PAGED_DECODE

# Nearer than this the forms are alike, and no reason to change a choice.
_ALIKE = 1.05


@dataclass(frozen=True, slots=True)
class Work:
    """One step's attention in a layer with eight heads of a cache."""

    rows: int
    context: int
    dim: int
    group: int
    stored: torch.dtype

    def __str__(self) -> str:
        kind = str(self.stored).removeprefix("torch.")
        return f"{self.rows} x {self.context}, {self.group} of {self.dim}, {kind}"


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


_HALF, _FP8, _INT8 = torch.float16, torch.float8_e4m3fn, torch.int8
WORKS = (
    *(Work(64, 2048, 128, group, kind) for kind in (_HALF, _FP8, _INT8) for group in (1, 4, 8)),
    *(Work(64, 2048, 64, group, kind) for kind in (_HALF, _FP8) for group in (1, 8)),
    *(Work(64, 2048, 256, 2, kind) for kind in (_HALF, _FP8)),
    Work(64, 2048, 128, 16, _HALF),
    Work(256, 48, 128, 4, _HALF),
    Work(1, 8192, 128, 4, _HALF),
    Work(1, 8192, 128, 4, _FP8),
)


def measure(work: Work, device: torch.device, of: Machine) -> Found:
    """Both forms on the same arguments."""
    make = decodes(work.rows, work.context, work.stored, work.group, work.dim)
    arguments = make(device, device.type != "cuda")
    sizes = {name: counted(value) for name, value in arguments.items()}
    least = PAGED_DECODE.traffic(**sizes).bytes
    us = {
        form: timed(ours({**arguments, "form": form}, "paged_decode", device), device)
        for form in FORMS[1:]
    }
    shares = {form: least / us[form] * 1e6 / of.bandwidth if of.bandwidth else None for form in us}
    places = prod(arguments["k_cache"].shape[:-1])
    choice = decode_form(work.dim, work.group, work.stored.itemsize, places)
    return Found(str(work), us[SCALAR], us[MMA], shares[SCALAR], shares[MMA], choice.form)


def verdict(found: Sequence[Found]) -> str:
    """What the plan should choose instead, or that it chooses well."""
    wrong = [f"{one.work}: {one.faster}" for one in found if one.faster != one.chosen]
    if not wrong:
        return f"the plan chose the faster form in all {len(found)} cases"
    return "the plan should choose " + "; ".join(wrong)


def row(found: Found) -> list[str]:
    """One line of the table."""
    shares = [
        "-" if share is None else f"{share:.0%}" for share in (found.scalar_share, found.mma_share)
    ]
    times = [f"{found.scalar_us:.1f}", shares[0], f"{found.mma_us:.1f}", shares[1]]
    return [found.work, *times, found.faster, found.chosen]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), metavar="FOLDER")
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of = machine(device)
    found = [measure(work, device, of) for work in WORKS]
    head = ("rows x context", "scalar us", "of memory", "mma us", "of memory", "faster", "chosen")
    print(of.name)
    publish(Finding("decode forms", head, [row(one) for one in found], ""), record=False)
    said = verdict(found) if of.bandwidth else "a CPU says nothing of which is faster"
    print(said)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) | {"faster": one.faster} for one in found]
    document = {"machine": asdict(of), "forms": rows, "verdict": said}
    (given.out / "decode_forms.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
