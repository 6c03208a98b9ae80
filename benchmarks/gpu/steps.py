"""The steps of a check on a GPU, as data: what each shows, its command, how long it may take."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

# Else tests that find no CuPy would be left out, and the step would pass.
_REQUIRED = ("PENSTOCK_GPU_REQUIRED", "1")
# A borrowed machine has pytest, and not all of our plugins: what is configured of them is no error.
_LENIENT = ("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default")
DEVICE_TESTS = ("tests/kernels/test_cuda.py", "tests/gpu")


@dataclass(frozen=True, slots=True)
class Step:
    """One process. What it writes to `--out` or prints is kept; `needs` is a program without which
    the step is left out; `settings` are for its environment.
    """

    name: str
    shows: str
    command: tuple[str, ...]
    limit_s: int
    needs: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def missing(self) -> str:
        """Why it is left out on this machine, or nothing."""
        if self.needs and shutil.which(self.needs) is None:
            return f"{self.needs} is not installed"
        return ""


def steps(out: Path) -> tuple[Step, ...]:
    """All of them, in their order: what is right, what it costs, what a server makes of it. Their
    limits add up to ten minutes.
    """

    def python(module: str, *more: str) -> tuple[str, ...]:
        return (sys.executable, "-m", module, *more, "--out", str(out))

    tests = (sys.executable, "-m", "pytest", *_LENIENT, "-v", "-p", "no:cacheprovider", "-m", "gpu")
    return (
        Step(
            "device tests",
            "each kernel against its law, the CPU executor and torch; graphs against eager steps;"
            " torch counts CuPy's arrays and has them back; ragged batches and images of any size"
            " against the host's",
            (*tests, *DEVICE_TESTS),
            130,
            settings=(_REQUIRED,),
        ),
        _sanitizer("memcheck", tests),
        _sanitizer("racecheck", tests),
        Step(
            "launch costs",
            "microseconds of the host for a launch: ours, CuPy's, torch's, a node of a graph",
            python("benchmarks.gpu.launch_cost"),
            20,
        ),
        Step(
            "staging",
            "ways of a batch to the device: a copy a request, a slab, a kernel that reads the host;"
            " images of various sizes joined by the host, and as they came",
            python("benchmarks.gpu.staging"),
            30,
        ),
        Step(
            "kernels",
            "each kernel: time, bytes, share of the roof; beside torch, torch.compile and CuPy",
            python("benchmarks.kernels"),
            80,
        ),
        Step(
            "forms of kernels",
            "attention and products by scalars and by tensor cores, and which plans should take",
            python("benchmarks.kernel_forms"),
            30,
        ),
        Step(
            "server",
            "a ResNet-50 and a BERT-base of random weights over the wire, batches of 1 to 64",
            python("benchmarks.gpu.served"),
            75,
        ),
        Step(
            "language model",
            "8 B random parameters: decode at 1, 64 and 256 rows, eager and by graphs; prefill; 32"
            " long answers, each step launched ahead or one by one, and the same by transformers'"
            " continuous batching",
            python("benchmarks.gpu.language"),
            135,
        ),
    )


def _sanitizer(tool: str, tests: tuple[str, ...]) -> Step:
    return Step(
        tool,
        f"compute-sanitizer's {tool} over a few calls of each kernel",
        ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests, DEVICE_TESTS[0]),
        50,
        "compute-sanitizer",
        (("PENSTOCK_GPU_EXAMPLES", "2"), _REQUIRED),
    )
