"""What each kernel takes: time, bytes, its share of the bandwidth that this device was measured to
have (or of the rate of its products), beside torch, torch.compile and CuPy.

    python -m benchmarks.kernels [--out FOLDER] [--only NAME ...] [--no-compile]

Writes kernels.json and, on a GPU, roofline.svg. On a CPU the NumPy references are timed with small
sizes: that shows that everything runs, and the sizes, and nothing of a GPU.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from benchmarks.kernel_cases import CASES, Arguments, Case
from benchmarks.report import Finding, publish
from benchmarks.roofline import Mark, roofline

from penstock_kernels import registry
from penstock_kernels.device import find_cupy
from penstock_kernels.run import Reference, device_runner

_ROUNDS = 25
# More than any cache of a device holds.
_FLUSH = 256 << 20
_SHORT = 1 << 16
# For torch.compile in all; what comes later is measured without it.
_COMPILE_S = 45.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One case; microseconds, None where there is nothing to time. `share` is of the floor that
    bytes and operations set on this device.
    """

    kernel: str
    label: str
    bytes: int
    flops: int
    ours_us: float | None
    torch_us: float | None = None
    compiled_us: float | None = None
    cupy_us: float | None = None
    share: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of the device first: bytes and operations a second; 0 on a CPU."""

    name: str
    bandwidth: float = 0.0
    rate: float = 0.0


def machine(device: torch.device) -> Machine:
    """A copy of a gigabyte, counted both ways, and a product of large matrices."""
    if device.type != "cuda":
        return Machine("CPU, by the NumPy references")
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    copied = timed(lambda: goal.copy_(source), device)
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    product = timed(lambda: a @ a, device)
    name = torch.cuda.get_device_name(device)
    return Machine(name, 2 * source.nbytes / copied * 1e6, 2 * 8192**3 / product * 1e6)


class Budget:
    """So many seconds for what may take long."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> bool:
        """Whether there is time."""
        return time.monotonic() < self._until


def timed(call: Callable[[], Any], device: torch.device, rounds: int = _ROUNDS) -> float:
    """Microseconds of a call, the median; on a GPU with cold caches, by its own clock."""
    if device.type != "cuda":
        return _timed_on_host(call)
    call()
    flush = torch.empty(_FLUSH, dtype=torch.uint8, device=device)
    spans = []
    for _ in range(rounds):
        flush.zero_()
        start, end = _event(), _event()
        start.record()
        call()
        end.record()
        spans.append((start, end))
    torch.cuda.synchronize(device)
    ms: list[float] = [start.elapsed_time(end) for start, end in spans]
    return statistics.median(ms) * 1e3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _timed_on_host(call: Callable[[], Any]) -> float:
    spans = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        spans.append(time.perf_counter() - began)
    return statistics.median(spans) * 1e6


def ours(arguments: Arguments, kernel: str, device: torch.device) -> Callable[[], Any]:
    """A call of the kernel: on torch's stream, or by the reference over the tensors' memory."""
    declared = registry.kernel(kernel)
    if device.type == "cuda":
        # Rivals may put what they need beside the arguments.
        runner, own = device_runner(), dict(arguments)
        return lambda: runner.run(declared, own, torch.cuda.current_stream().cuda_stream)
    host = {name: _array(value) for name, value in arguments.items()}
    return lambda: Reference().run(declared, host)


def _array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float8_e4m3fn:
        return value.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return value.numpy()


def counted(value: Any) -> Any:
    """An argument as traffic is counted by: short lists of integers as they are, of all else the
    form without the content.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() <= _SHORT and not value.dtype.is_floating_point:
        return value.cpu().numpy()
    eight = value.dtype == torch.float8_e4m3fn
    form = torch.zeros((1,), dtype=torch.int8 if eight else value.dtype)
    return np.broadcast_to(form.numpy(), tuple(value.shape))


def measure(case: Case, device: torch.device, of: Machine, *, compiled: bool) -> Timing:
    """One row. What a rival cannot do is told in `problem`; what ours cannot is raised."""
    small = device.type != "cuda"
    arguments = case.make(device, small)
    sizes = {name: counted(value) for name, value in arguments.items()}
    traffic = registry.kernel(case.kernel).traffic(**sizes)
    us = timed(ours(arguments, case.kernel, device), device)
    rivals, problems = {}, []
    for name, call in _rivals(case, arguments, compiled and not small).items():
        try:
            rivals[name] = timed(call, device)
        except Exception as error:
            problems.append(f"{name}: {type(error).__name__}")
    floor = max(traffic.bytes / of.bandwidth, traffic.flops / of.rate) * 1e6 if of.rate else 0
    share = floor / us if floor else None
    return Timing(
        case.kernel,
        case.label,
        traffic.bytes,
        traffic.flops,
        us,
        rivals.get("torch"),
        rivals.get("compile"),
        rivals.get("cupy"),
        share,
        "; ".join(problems),
    )


def attempted(case: Case, device: torch.device, of: Machine, *, compiled: bool) -> Timing:
    """One row, also where there is nothing to tell but why."""
    try:
        return measure(case, device, of, compiled=compiled)
    except Exception as error:
        traceback.print_exc()
        problem = f"ours: {type(error).__name__}: {error}"[:500]
        return Timing(case.kernel, case.label, 0, 0, None, problem=problem)


def _rivals(case: Case, arguments: Arguments, compiled: bool) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    own = case.torch
    if own is not None:
        found["torch"] = lambda: own(arguments)
    if own is not None and compiled:
        # Of just these sizes: another case of the same function must not make it slower.
        faster = torch.compile(own, dynamic=False)
        found["compile"] = lambda: faster(arguments)
    by = case.cupy
    if by is not None and arguments_on_gpu(arguments):
        cupy = find_cupy()
        found["cupy"] = lambda: by(cupy, arguments)
    return found


def arguments_on_gpu(arguments: Arguments) -> bool:
    """Whether the tensors lie on a GPU."""
    return any(isinstance(value, torch.Tensor) and value.is_cuda for value in arguments.values())


def row(timing: Timing) -> list[str]:
    """One line of the table."""
    every = (timing.ours_us, timing.torch_us, timing.compiled_us, timing.cupy_us)
    share = "-" if timing.share is None else f"{timing.share:.0%}"
    times = ["-" if us is None else f"{us:.1f}" for us in every]
    return [f"{timing.kernel}, {timing.label}", f"{timing.bytes / 1e6:.2f}", *times, share]


def marks(timings: Sequence[Timing]) -> list[Mark]:
    """Where kernels stand under the roof."""
    return [
        Mark(f"{t.kernel}, {t.label}", t.flops / t.bytes, t.flops / t.ours_us * 1e6)
        for t in timings
        if t.flops and t.ours_us
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these kernels")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of = machine(device)
    compiling = Budget(0 if given.no_compile else _COMPILE_S)
    given.out.mkdir(parents=True, exist_ok=True)
    timings: list[Timing] = []
    for case in CASES:
        if not given.only or case.kernel in given.only:
            timings.append(attempted(case, device, of, compiled=compiling.left))
            _keep(given.out, of, timings)
    head = ("kernel", "MB", "ours us", "torch us", "compiled us", "CuPy us", "of the roof")
    print(of.name)
    publish(Finding("kernels", head, [row(timing) for timing in timings], ""), record=False)
    if of.rate:
        picture = roofline(marks(timings), of.bandwidth, of.rate, f"Kernels on {of.name}")
        (given.out / "roofline.svg").write_text(picture)
    return int(any(timing.ours_us is None for timing in timings))


def _keep(folder: Path, of: Machine, timings: Sequence[Timing]) -> None:
    """Write what there is so far: whoever is cut short has had that."""
    document = {"machine": asdict(of), "kernels": [asdict(timing) for timing in timings]}
    (folder / "kernels.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
