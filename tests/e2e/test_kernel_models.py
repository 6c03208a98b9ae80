"""Kernels as models over gRPC: from a picture to the names of digits and from states to vectors the
demo repository answers alike by the references and by the CUDA source, and an edited `model.cu` is
loaded while others ask.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.build_repository import DIGIT_NAMES
from tests.e2e.running import Running, ServerThread, options
from tests.kernels.executor import needs_compiler
from tests.runtime.kernel_folders import SCALE, emulate

from penstock import Client, InferenceError
from penstock.client.retry import NO_RETRIES

CHAIN = ("image_pixels", "grey", "digits", "best_digits", "photo_digits")
CONFIG = """\
backend: "kernel"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 200 }
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
parameters { key: "function" value: { string_value: "scale" } }
parameters { key: "grid" value: { string_value: "ceil_div(X.size, 256)" } }
parameters {
  key: "arguments"
  value: { string_value: "X, Y, int32(X.size), float32(1)" }
}
"""


@contextmanager
def served(root: Path, **more: Any) -> Iterator[Client]:
    """A client of a server of these models."""
    with ServerThread(options([root], **more)) as running, connected(running) as client:
        yield client


@contextmanager
def connected(running: Running) -> Iterator[Client]:
    with Client(running.target, retries=NO_RETRIES) as client:
        yield client


@pytest.fixture
def chain(demo_repository: Path, tmp_path: Path) -> Path:
    """The models from the picture to the names, and the pooling."""
    for name in (*CHAIN, "pooling"):
        shutil.copytree(demo_repository / name, tmp_path / name)
    return tmp_path


def pictures(demo_repository: Path, count: int) -> tuple[list[Any], list[str]]:
    """Grey images that training never saw, as colour pictures of different sizes, and their names;
    enlarged by whole factors, which resizing takes back.
    """
    with np.load(demo_repository / "demo_digits.npz") as held_out:
        images, labels = held_out["images"][:count], held_out["labels"][:count]
    made = []
    for number, image in enumerate(images):
        grown = image.repeat(1 + number % 3, axis=0).repeat(1 + number % 2, axis=1)
        grey = np.rint(grown * (255 / 16)).astype(np.uint8)
        made.append(np.stack([grey] * 3, axis=-1)[None])
    return made, [DIGIT_NAMES[label] for label in labels.tolist()]


def read(client: Client, images: list[Any]) -> tuple[list[list[str]], Any]:
    """The names and scores of each picture, all of them asked at once."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: client.infer("photo_digits", {"IMAGE": image}), images))
    labels = [[name.decode() for name in one["LABELS"][0]] for one in found]
    return labels, np.concatenate([one["SCORES"] for one in found])


def pooled(client: Client, texts: list[Any]) -> Any:
    """The vector of each text, all of them asked at once."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda states: client.infer("pooling", {"STATES": states}), texts))
    return np.concatenate([one["EMBEDDING"] for one in found])


def test_a_picture_of_any_size_gets_the_name_of_its_digit(
    demo_repository: Path, chain: Path
) -> None:
    """Sizes share batches, and nine of ten are right."""
    images, names = pictures(demo_repository, 60)

    with served(chain) as client:
        labels, scores = read(client, images)

    assert np.mean([row[0] == name for row, name in zip(labels, names, strict=True)]) > 0.9
    assert (np.diff(scores, axis=1) <= 0).all()


@needs_compiler
def test_the_cuda_source_answers_as_the_references_do(
    demo_repository: Path, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gRPC, from the picture to the names and from states to vectors."""
    images, _ = pictures(demo_repository, 12)
    texts = [
        np.random.default_rng(n).normal(size=(1, n, 384)).astype(np.float32)
        for n in (1, 7, 5, 8, 6, 2)
    ]

    with served(chain) as client:
        reference = (*read(client, images), pooled(client, texts))
    emulate(monkeypatch)
    with served(chain) as client:
        emulated = (*read(client, images), pooled(client, texts))

    assert emulated[0] == reference[0]
    np.testing.assert_allclose(emulated[1], reference[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(emulated[2], reference[2], rtol=1e-5, atol=1e-6)
    means = np.concatenate([states.mean(axis=1) for states in texts])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(reference[2], expected, rtol=1e-4, atol=1e-5)


# -- a model.cu that is edited ---------------------------------------------------------------------


def publish(root: Path, factor: float, text: str = SCALE) -> None:
    """Another edition of the model, by renaming."""
    version = root / "scaled" / "1"
    version.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("model.cu", f"{text}// times {factor}\n"),
        ("reference.py", f"def reference(X):\n    return X * {factor}\n"),
    ):
        (version / f".{name}.new").write_text(content)
        os.replace(version / f".{name}.new", version / name)


def test_an_edited_model_cu_is_loaded_while_others_ask(tmp_path: Path) -> None:
    """No call fails, every answer is one of an edition, and one that is broken changes nothing."""
    publish(tmp_path, 1)
    (tmp_path / "scaled" / "config.pbtxt").write_text(CONFIG)
    ended, seen, failures = threading.Event(), set[float](), list[Exception]()

    def ask(client: Client) -> None:
        while not ended.is_set():
            try:
                found = client.infer("scaled", {"X": np.full((1, 300), 2, np.float32)})
                seen.update(np.unique(found["Y"]).tolist())
            except Exception as error:
                failures.append(error)

    settings = options([tmp_path], model_control_mode="explicit", load_model=("scaled",))
    with ServerThread(settings) as running, connected(running) as client:
        callers = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            for factor in range(2, 12):
                publish(tmp_path, factor)
                client.load("scaled")
            publish(tmp_path, 99, SCALE.replace("x[i]", "z[i]"))
            with pytest.raises(InferenceError, match='line 5: identifier "z" is undefined') as said:
                client.load("scaled")
            last = client.infer("scaled", {"X": np.ones((1, 3), np.float32)})["Y"]
        finally:
            ended.set()
            for caller in callers:
                caller.join()

    assert not failures
    assert seen <= {2.0 * factor for factor in range(1, 12)}
    assert len(seen) > 1
    assert last.tolist() == [[11, 11, 11]]
    assert str(tmp_path) not in str(said.value)
