"""A whole server with a ResNet-50 and a BERT-base of random weights on the GPU, called over the
wire with 1 to 128 calls in flight, of which its dynamic batcher makes batches of up to 64.

    python -m benchmarks.gpu.served --out FOLDER
"""

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.figures import Figures, folder
from benchmarks.server import running

MODELS = Path(__file__).parent / "models"
CLASSES = {"resnet50": "ResNet50", "bert_base": "BertBase"}
IN_FLIGHT = (1, 8, 32, 64, 128)
_SECONDS = 3
_KEPT = ("concurrency", "requests", "requests_per_s", "p50_ms", "p99_ms", "errors")


def build(repository: Path) -> Path:
    """The models with weights that are drawn here; gives the repository's path."""
    from safetensors.torch import save_file

    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(MODELS, repository, ignore=shutil.ignore_patterns("__pycache__"))
    for name in CLASSES:
        torch.manual_seed(0)
        save_file(network(name).state_dict(), repository / name / "1" / "model.safetensors")
    return repository


def network(name: str) -> Any:
    """The module of one model, with random weights."""
    file = MODELS / name / "1" / "model.py"
    spec = importlib.util.spec_from_file_location(f"served_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, CLASSES[name])()


def bench(url: str, name: str, in_flight: Sequence[int], seconds: float) -> list[Any]:
    """The rows of `penstock bench`, one for each number of calls in flight."""
    command = [sys.executable, "-m", "penstock", "bench", name, "--url", url, "--json"]
    command += ["--concurrency", ",".join(map(str, in_flight)), "--duration", str(seconds)]
    # Two connections for a client that sends megabytes.
    command += ["--warmup", "1", "--connections", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [{name: row[name] for name in _KEPT} for row in rows]


@contextlib.contextmanager
def _served(repository: Path) -> Iterator[str]:
    with running(build(repository)) as server:
        yield server.url


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write."""
    out = folder(words, __doc__)
    figures = Figures(out, "server")
    with _served(out / "repository") as url:
        for name in CLASSES:
            figures.add(name, lambda name=name: bench(url, name, IN_FLIGHT, _SECONDS))  # type: ignore[misc]
    shutil.rmtree(out / "repository", ignore_errors=True)
    return int(figures.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
