"""Laws of who owns a GPU's memory: torch, where it is in use there, for whatever CuPy allocates;
told by books instead of a GPU.
"""

import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.gpu_memory import FakeCupy, FakeTorch, OutOfMemoryError

from penstock_kernels.memory import on_gpu, share_memory, shared_memory


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    """Torch is in use on this machine's GPUs."""
    made = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


def test_torch_counts_what_cupy_allocates_and_has_it_back(torch: FakeTorch) -> None:
    """On the GPU that is entered, on torch's stream; afterwards CuPy is as it was."""
    cupy, torch.current_stream = FakeCupy(), 7

    with on_gpu(cupy, 2):
        arrays = [cupy.alloc(100), cupy.alloc(28)]
        counted = torch.memory_allocated(2)
    streams = {stream for _, _, stream in torch.held.values()}
    outside = cupy.alloc(5)
    del arrays

    assert counted == 128
    assert streams == {7}
    assert torch.held == {}
    assert sorted(torch.freed) == [(28, 2, 7), (100, 2, 7)]
    assert (outside.size, cupy.of_pool, cupy.current, cupy.stream) == (5, 5, None, 0)


def test_memory_goes_back_to_its_own_stream_whatever_is_current_then(torch: FakeTorch) -> None:
    """Whoever has it next there comes after whoever used it; from any thread."""
    cupy, torch.current_stream = FakeCupy(), 7
    with on_gpu(cupy, 1):
        arrays = [cupy.alloc(64)]
    torch.current_stream = 9

    with on_gpu(cupy, 0):
        other = threading.Thread(target=arrays.clear)
        other.start()
        other.join()

    assert torch.freed == [(64, 1, 7)]


def test_torch_that_nobody_uses_on_a_gpu_owns_nothing(torch: FakeTorch) -> None:
    """CuPy's own pool stays, and nothing is asked of torch; nor of one that is not there."""
    cupy, torch.in_use = FakeCupy(), False

    with on_gpu(cupy, 0):
        held = cupy.alloc(10)
    sys.modules.pop("torch")
    with on_gpu(cupy, 0), shared_memory(cupy):
        more = cupy.alloc(20)

    assert (held.size, more.size, cupy.of_pool) == (10, 20, 30)
    assert torch.held == {}
    assert cupy.pools_emptied == []


def test_what_cupys_pool_kept_free_is_the_gpus_again_when_torch_comes(torch: FakeTorch) -> None:
    """Once for each GPU."""
    cupy = FakeCupy()

    for ordinal in (1, 0, 1, 0):
        with on_gpu(cupy, ordinal):
            cupy.alloc(8)

    assert cupy.pools_emptied == [1, 0]


def test_no_memory_left_is_said_by_torch(torch: FakeTorch) -> None:
    """After that there is as much as before."""
    cupy, torch.room = FakeCupy(), 100

    with on_gpu(cupy, 0):
        held = cupy.alloc(60)
        with pytest.raises(OutOfMemoryError):
            cupy.alloc(60)
        fits = cupy.alloc(40)

    assert torch.memory_allocated(0) == held.size + fits.size == 100


def test_a_process_may_share_for_every_thread(torch: FakeTorch) -> None:
    """From when torch is in use; a choice that somebody makes afterwards stands."""
    cupy, torch.in_use = FakeCupy(), False

    share_memory(cupy)
    before = cupy.alloc(8)
    torch.in_use = True
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(cupy.alloc(16)))
    other.start()
    other.join()
    counted = torch.memory_allocated(0)
    found.clear()
    cupy.set_allocator(cupy._of_pool)
    share_memory(cupy)
    theirs = cupy.alloc(32)

    assert counted == 16
    assert torch.held == {}
    assert cupy.of_pool == before.size + theirs.size


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 100), st.integers(0, 5)),
    max_size=30,
)


@given(STEPS)
def test_books_balance_after_any_work(steps: list[tuple[int, int, int, int]]) -> None:
    """On any GPUs and streams, and whenever arrays go: each allocation is freed once, where it was
    made.
    """
    cupy, torch = FakeCupy(), FakeTorch()
    arrays: list[Any] = []
    made: list[tuple[int, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)

        for device, stream, size, drops in steps:
            torch.current_stream = stream
            with on_gpu(cupy, device):
                arrays.append(cupy.alloc(size))
            made += [(size, device, stream)] if size else []
            del arrays[:drops]
        held = sum(array.size for array in arrays)
        counted = sum(torch.memory_allocated(device) for device in range(3))
        arrays.clear()

    assert counted == held
    assert torch.held == {}
    assert sorted(torch.freed) == sorted(made)
    assert cupy.of_pool == 0
