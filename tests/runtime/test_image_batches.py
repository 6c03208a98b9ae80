"""Laws of images of any size that share a batch: they go down as they came, in one copy with the
table of where each is, one launch makes the batch, and the answers are those of the host's way to
the bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.fakes import FakeLoaded
from tests.runtime.kernel_folders import kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import member
from tests.runtime.test_instance import OneBatch
from tests.runtime.test_staging import Poisoned
from tests.runtime.test_staging_ragged import Counting

from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference, Runner
from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.kernel.model import KernelExecutable, LoadedKernel
from penstock_runtime.backends.kernel.place import Host
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import PenstockError
from penstock_runtime.instance import ModelInstance
from penstock_runtime.memory.host_deck import HostDeck
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Pending

OPTIONS = {
    "kernel": "image_normalise",
    "height": "5",
    "width": "4",
    "mean": "0.5, 0.4, 0.3",
    "deviation": "0.2",
}
# Images of one request have one size: how many, and how high and wide.
SIZES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5
)
AWKWARD = [(1, 1, 1), (2, 7, 3), (1, 5, 4), (1, 2, 9)]


class OnDeck(Host):
    """The host, with batches put together as for a device."""

    def __init__(self, runner: Runner, deck: HostDeck) -> None:
        super().__init__(runner)
        self._deck = deck

    def deck(self) -> HostDeck:
        return self._deck


def images(sizes: Sequence[tuple[int, int, int]]) -> list[Pending]:
    """Requests with images of these sizes, no two alike."""
    random = np.random.default_rng(4)
    return [
        member({"IMAGE": random.integers(0, 256, (*size, 3), np.uint8)}, size[0]) for size in sizes
    ]


@contextmanager
def model(root: Path, **options: str) -> Iterator[tuple[ModelConfig, Any]]:
    """The configuration and the step of an image model."""
    config, loaded = load(kernel_source(root, {**OPTIONS, **options}, max_batch_size=64))
    yield config, cast(LoadedKernel, loaded).step
    loaded.close()


def by_host(config: ModelConfig, step: Any, runner: Runner, members: Sequence[Pending]) -> Any:
    """The pixels, of a batch that the host has joined."""
    made = KernelExecutable("m", step, Host(runner))
    merged = BatchPlan(config, 1).merge(Batch.of(members))
    return made.execute(merged, [context() for _ in members])["PIXELS"]


def by_deck(config: ModelConfig, step: Any, deck: Any, runner: Runner, members: Any) -> Any:
    """The pixels, of a batch that went down as it came; twice, into the same slab."""
    made = KernelExecutable("m", step, OnDeck(runner, deck))
    staged = staged_merge(config, cast(HostDeck, made.deck), made.tables)
    assert staged is not None
    first = made.execute(staged(members), [context() for _ in members])["PIXELS"]
    again = made.execute(staged(members), [context() for _ in members])["PIXELS"]
    assert first.tobytes() == again.tobytes()
    return again


@given(SIZES, st.sampled_from(["FP16", "FP32", "BF16"]))
@settings(max_examples=40)
def test_images_of_any_sizes_are_the_hosts_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int, int]], datatype: str
) -> None:
    """One copy down and one launch, however many there are; what is beside them is never read."""
    members, runner = images(sizes), Counting()
    with model(tmp_path_factory.mktemp("m"), datatype=datatype) as (config, step):
        deck = Poisoned(runner)
        found = by_deck(config, step, deck, runner, members)
        expected = by_host(config, step, Reference(), members)

    assert found.shape == (sum(rows for rows, _, _ in sizes), 3, 5, 4)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()
    assert (deck.downs, runner.ran) == (2, ["image_normalise"] * 2)


@needs_compiler
@given(SIZES, st.sampled_from([0, 1, 7]))
@example(AWKWARD, 2024)
@settings(max_examples=15)
def test_the_cuda_source_answers_alike_from_either_way(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int, int]], order: int
) -> None:
    """Bytes of the slab around the images are poison, and it reads none of them."""
    members, emulated = images(sizes), Emulated(CACHE, order=order)
    with model(tmp_path_factory.mktemp("m")) as (config, step):
        found = by_deck(config, step, Poisoned(emulated), emulated, members)
        joined = by_host(config, step, emulated, members)
        reference = by_host(config, step, Reference(), members)

    assert found.tobytes() == joined.tobytes()
    np.testing.assert_allclose(
        found.astype(np.float32), reference.astype(np.float32), rtol=1e-2, atol=1e-2
    )


def test_one_image_without_a_pixel_fails_alone(tmp_path: Path) -> None:
    """Its neighbours are answered, on either way with the same words."""
    said = []
    with model(tmp_path) as (config, step):
        for place in (Host(Reference()), OnDeck(Reference(), Poisoned(Reference()))):
            members = images([(1, 3, 3), (1, 2, 2)])
            members[0].arrays = {"IMAGE": np.zeros((1, 0, 4, 3), np.uint8)}
            made = KernelExecutable("m", step, place)
            said.append(outcomes(config, made, members))

    assert said[0] == said[1]
    assert said[0] == [
        "input 'IMAGE' is an image of 0 x 4 x 3, expected sides of 1 to 16384 and 3 channels",
        [[1, 3, 5, 4]],
    ]


def outcomes(config: ModelConfig, made: KernelExecutable, members: list[Pending]) -> list[Any]:
    """What an instance answers each: the error's text, or the shapes of the outputs."""

    class Loaded(FakeLoaded):
        def executable(self, placement: Placement) -> Any:
            return made

    plan, statistics = BatchPlan(config, 1), ModelStatistics("m", 1)
    loaded, scheduler = cast(Any, Loaded(lambda array: array)), cast(Any, OneBatch(*members))
    one = ModelInstance(Placement("m_0"), loaded, plan, scheduler, statistics)
    one.start()
    assert one.join(30)
    return [told(pending) for pending in members]


def told(pending: Pending) -> Any:
    """The text of an error, or the shapes of the outputs."""
    try:
        return [list(tensor.shape) for tensor in pending.stream.collect()[0].outputs]
    except PenstockError as error:
        return error.message
