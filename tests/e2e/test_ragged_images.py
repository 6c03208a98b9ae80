"""Images of various sizes over gRPC: requests that come together are one batch and one launch, and
each has the answer that it has alone, to the bit; by the references and by the CUDA source, joined
by the host and put together as for a GPU.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.running import ServerThread, options
from tests.kernels.executor import CACHE, needs_compiler

from penstock import Client
from penstock_kernels import run as kernels
from penstock_kernels.declare import Kernel
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference, Runner
from penstock_runtime.backends.kernel.place import Host
from penstock_runtime.memory.host_deck import HostDeck

# Long enough for four to meet, and not waited for once they have.
CONFIG = """\
backend: "kernel"
max_batch_size: 8
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5000000 }
instance_group [ { kind: KIND_CPU } ]
parameters { key: "kernel" value: { string_value: "image_normalise" } }
parameters { key: "height" value: { string_value: "6" } }
parameters { key: "width" value: { string_value: "5" } }
parameters { key: "mean" value: { string_value: "0.485, 0.456, 0.406" } }
parameters { key: "deviation" value: { string_value: "0.229, 0.224, 0.225" } }
"""
SIZES = ((7, 3), (1, 1), (12, 30), (6, 5))


class Watched:
    """A runner, and what it ran."""

    name = "reference"

    def __init__(self, inner: Runner) -> None:
        self._inner = inner
        self.ran: list[tuple[str, int]] = []

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        self.ran.append((kernel.name, len(arguments["start"])))
        self._inner.run(kernel, arguments, stream)


def pictures() -> list[Any]:
    """One of each size, no two alike."""
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (1, *size, 3), np.uint8) for size in SIZES]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the model."""
    (tmp_path / "pixels" / "1").mkdir(parents=True)
    (tmp_path / "pixels" / "config.pbtxt").write_text(CONFIG)
    return tmp_path


def served(
    root: Path, patch: pytest.MonkeyPatch, runner: Runner, *, staged: bool = False
) -> tuple[list[bytes], list[tuple[str, int]]]:
    """The answers to all at once and what ran for them; kernels by this runner, batches put
    together as for a GPU if `staged`.
    """
    watched = Watched(runner)
    patch.setattr(kernels, "host_runner", lambda: watched)
    patch.setattr(Host, "deck", lambda _: HostDeck(watched) if staged else None)
    with (
        ServerThread(options([root])) as running,
        Client(running.target) as client,
        ThreadPoolExecutor(len(SIZES)) as pool,
    ):
        found = list(pool.map(lambda one: client.infer("pixels", {"IMAGE": one}), pictures()))
    return [answer["PIXELS"].tobytes() for answer in found], watched.ran


def alone(root: Path) -> list[bytes]:
    """What each is answered when it is a batch of its own."""
    text = CONFIG.replace("preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5000000", "")
    (root / "pixels" / "config.pbtxt").write_text(text)
    with ServerThread(options([root])) as running, Client(running.target) as client:
        found = [client.infer("pixels", {"IMAGE": one})["PIXELS"] for one in pictures()]
    (root / "pixels" / "config.pbtxt").write_text(CONFIG)
    assert {(one.shape, one.dtype) for one in found} == {((1, 3, 6, 5), np.dtype(np.float16))}
    return [one.tobytes() for one in found]


@pytest.mark.parametrize("staged", [False, True], ids=["joined by the host", "as for a GPU"])
def test_images_that_come_together_are_one_launch_and_answered_as_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, staged: bool
) -> None:
    expected = alone(root)

    found, ran = served(root, monkeypatch, Reference(), staged=staged)

    assert ran == [("image_normalise", len(SIZES))]
    assert found == expected


@needs_compiler
def test_the_cuda_source_serves_them_alike_from_either_way(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And near to what the reference answers, as near as halves are."""
    reference, _ = served(root, monkeypatch, Reference())

    joined, once = served(root, monkeypatch, Emulated(CACHE, order=7))
    staged, again = served(root, monkeypatch, Emulated(CACHE, order=7), staged=True)

    assert once == again == [("image_normalise", len(SIZES))]
    assert joined == staged
    for one, other in zip(joined, reference, strict=True):
        near, wanted = (np.frombuffer(raw, np.float16).astype(float) for raw in (one, other))
        np.testing.assert_allclose(near, wanted, rtol=1e-2, atol=1e-2)
