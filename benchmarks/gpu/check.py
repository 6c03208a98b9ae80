"""Runs the steps of a check on a GPU, each in a process of its own, and reports what came of them.

    scripts/gpu_check [--out FOLDER] [--only STEP ...]

One step that fails, hangs or crashes does not stop the rest. Writes check.json, a file for each
step's figures and one for its output. Without a GPU it says what it would do. Exit code 1 if a step
failed.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu.steps import Step, steps

from penstock_kernels import nvrtc
from penstock_kernels.device import cuda_device_count

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 12


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step: `passed`, `failed`, `timed out` or `left out`, and why."""

    name: str
    outcome: str
    seconds: float = 0.0
    why: str = ""


def perform(step: Step, out: Path) -> Result:
    """Run one step to its end or its limit."""
    if step.missing:
        return Result(step.name, "left out", why=step.missing)
    log = out / f"{step.name.replace(' ', '_')}.log"
    began = time.monotonic()
    code = _run(step, log)
    spent = time.monotonic() - began
    if code is None:
        return Result(step.name, "timed out", spent, f"after {step.limit_s} s; {_tail(log)}")
    if code:
        return Result(step.name, "failed", spent, f"exit code {code}; {_tail(log)}")
    return Result(step.name, "passed", spent)


def _run(step: Step, log: Path) -> int | None:
    """The exit code; None if the limit came first. Its children end with it."""
    # What a step printed before it was killed would else be lost with it.
    settings = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(step.settings)
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                step.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=settings,
                start_new_session=True,
            )
        except OSError as error:
            file.write(str(error).encode())
            return 127
        try:
            return process.wait(step.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-_TAIL:])[-2000:]


def told(result: Result) -> str:
    """One line of the report."""
    why = f": {result.why}" if result.why else ""
    return f"{result.outcome:>9}  {result.seconds:6.1f} s  {result.name}{why}"


def versions() -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for name in ("torch", "cupy", "transformers", "numpy"):
        try:
            found[name] = str(__import__(name).__version__)
        except Exception as error:
            found[name] = f"not there: {type(error).__name__}"
    found["nvrtc"] = nvrtc.version() if nvrtc.available() else "not there"
    return found | {"devices": _devices()}


def _devices() -> str:
    """Their names, memory and driver, as the driver's own program says: this process leaves them
    to the steps.
    """
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not told: {type(error).__name__}"
    return done.stdout.strip() or done.stderr.strip()[:200]


def main(words: Sequence[str] | None = None, devices: Callable[[], int] = cuda_device_count) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "gpu")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="steps by name")
    given = parser.parse_args(words)
    out = given.out.absolute()
    chosen = [step for step in steps(out) if not given.only or step.name in given.only]
    if not devices():
        print("No CUDA device here. On a machine with one this would run, in this order:")
        for step in chosen:
            print(f"  {step.name} (at most {step.limit_s} s): {step.shows}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    depends, results = versions(), []
    for step in chosen:
        results.append(perform(step, out))
        print(told(results[-1]), flush=True)
        document = {"versions": depends, "steps": [asdict(result) for result in results]}
        (out / "check.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"figures and outputs: {out}")
    return int(any(result.outcome in ("failed", "timed out") for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
