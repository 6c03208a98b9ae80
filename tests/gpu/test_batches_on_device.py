"""Laws of batches on a GPU, and of whose memory they are in; skipped without one. What the same
seams are told on a CPU by fakes is in tests/kernels/test_memory.py, tests/runtime/test_kernel_*.py
and test_staging*.py, tests/runtime/test_image_batches.py.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.kernel_folders import kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import ragged_config, ragged_member
from tests.runtime.test_image_batches import AWKWARD, OPTIONS, by_host, images
from tests.runtime.test_staging_ragged import assert_same, casting, on_host
from torch.utils.dlpack import from_dlpack

from penstock_kernels.device import cuda_device_count, find_cupy
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.memory import on_gpu
from penstock_kernels.run import Reference, device_runner
from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.kernel.deck import CupyDeck
from penstock_runtime.backends.kernel.model import KernelExecutable, LoadedKernel
from penstock_runtime.backends.torch_deck import deck_of
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.errors import ResourceExhausted
from penstock_runtime.exhausted import out_of_memory
from penstock_runtime.memory.staging import Deck

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device_count() == 0, reason="no CUDA device: the driver shows none"),
    pytest.mark.filterwarnings("ignore"),
]
MIB = 1 << 20
PLACE = Placement("m_gpu0", "KIND_GPU", 0)
SHAPES = [(1, 5), (2, 0), (1, 4097), (3, 8)]
# What a model.py has: CuPy alone, then with torch, then an allocator of its own choice.
SHARED = """
import cupy, torch
from penstock_kernels.memory import share_memory
share_memory(cupy)
pool = cupy.get_default_memory_pool()
early = cupy.empty(1 << 20, cupy.uint8)
assert pool.used_bytes() >= 1 << 20
torch.zeros(1, device="cuda")
before, used = torch.cuda.memory_allocated(), pool.used_bytes()
late = cupy.arange(1 << 20, dtype=cupy.uint8)
assert torch.cuda.memory_allocated() - before >= 1 << 20 and pool.used_bytes() == used
assert int(late.sum()) == int((late.get()).sum()) and early.size == late.size
del late
assert torch.cuda.memory_allocated() == before
cupy.cuda.set_allocator(pool.malloc)
chosen = cupy.empty(1 << 20, cupy.uint8)
assert torch.cuda.memory_allocated() == before and pool.used_bytes() > used
print("shared")
"""


@pytest.fixture(autouse=True)
def _in_use() -> None:
    """Torch is, on this GPU."""
    torch.zeros(1, device="cuda")


def new_stream() -> Any:
    """One that nobody else works on."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def allocated() -> int:
    """What torch counts; the device has finished."""
    torch.cuda.synchronize()
    return int(torch.cuda.memory_allocated(0))


# -- whose memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("own_stream", [False, True])
def test_torch_counts_what_cupy_allocates_and_has_it_back(own_stream: bool) -> None:
    """On whatever stream torch works; a copy and a kernel of CuPy's do as they should in there."""
    cupy, host = find_cupy(), np.arange(MIB, dtype=np.float32)
    stream = new_stream() if own_stream else torch.cuda.default_stream()
    before, pool = allocated(), cupy.get_default_memory_pool().used_bytes()

    with torch.cuda.stream(stream), on_gpu(cupy, 0):
        array = cupy.asarray(host)
        doubled = array * 2
        held = allocated() - before
        tensor = from_dlpack(doubled)
        found = tensor.cpu().numpy()
    kept = cupy.get_default_memory_pool().used_bytes() - pool
    del array, doubled, tensor

    np.testing.assert_array_equal(found, host * 2)
    assert held >= 2 * host.nbytes
    assert kept == 0
    assert allocated() == before


def test_memory_is_used_again_on_its_stream_in_order() -> None:
    """What was freed while a kernel still read it is not written before that has ended."""
    cupy, found = find_cupy(), []

    with torch.cuda.stream(new_stream()), on_gpu(cupy, 0):
        for number in range(50):
            array = cupy.full(MIB, number, cupy.float32)
            found.append(cupy.sqrt(array * array).sum())
            del array
        sums = [float(one) for one in found]

    assert sums == [pytest.approx(number * MIB, rel=1e-4) for number in range(50)]


def test_no_room_is_said_as_any_library_says_it(tmp_path: Path) -> None:
    """And a model's caller is told RESOURCE_EXHAUSTED; the next is answered."""
    cupy = find_cupy()
    with on_gpu(cupy, 0), pytest.raises(Exception, match="memory") as refused:
        cupy.empty(1 << 44, cupy.uint8)
    _, loaded = load(kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=8))
    made: Any = loaded.executable(PLACE)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4, 0)
    try:
        with pytest.raises(ResourceExhausted):
            made.execute({"VALUES": np.zeros((1, 64 * MIB), np.float32)}, [context()])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)

    assert out_of_memory(refused.value)
    found = made.execute({"VALUES": np.arange(9, dtype=np.float32)[None]}, [context()])
    assert found["INDICES"].get().tolist() == [[8, 7]]


def test_a_model_of_cupy_shares_once_torch_is_in_use() -> None:
    """In a process of its own, since that is what it is set for."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED], check=False, capture_output=True, text=True, timeout=80
    )

    assert (done.stdout.strip(), done.returncode) == ("shared", 0), done.stderr[-2000:]


# -- ragged batches --------------------------------------------------------------------------------


def decks() -> Sequence[Deck]:
    """That of torch models, and that of kernel models."""
    of_torch = deck_of(torch.device("cuda", 0))
    assert of_torch is not None
    return of_torch, CupyDeck(find_cupy(), device_runner(), 0)


@pytest.mark.parametrize("cast", ["", "X: FP16"])
def test_a_ragged_batch_is_the_hosts(cast: str) -> None:
    """With all that tells of it, to the byte; a second batch finds nothing of the first."""
    model = casting(cast) if cast else ragged_config(max_batch=64)
    first = [ragged_member(*shape) for shape in SHAPES]
    for deck in decks():
        staged = staged_merge(model, deck)
        assert staged is not None
        for members in (first, first[::-1]):
            assert_same(staged(members), on_host(model, members))


@needs_compiler
def test_images_of_any_size_are_the_executors_and_in_torchs_memory(tmp_path: Path) -> None:
    """Put together on the device, in one launch; as near to the reference as halves are."""
    config, loaded = load(kernel_source(tmp_path, OPTIONS, max_batch_size=64))
    step, members = cast(LoadedKernel, loaded).step, images(AWKWARD)
    made = cast(KernelExecutable, loaded.executable(PLACE))
    before, deck = allocated(), made.deck
    assert deck is not None
    staged = staged_merge(config, deck, made.tables)
    assert staged is not None

    pixels = made.execute(staged(members), [context() for _ in members])["PIXELS"]
    held = allocated() - before
    found = pixels.get()

    assert held >= found.nbytes
    for runner in (Reference(), Emulated(CACHE)):
        expected = by_host(config, step, runner, members)
        np.testing.assert_allclose(
            found.astype(float), expected.astype(float), rtol=2e-3, atol=2e-3
        )
