"""Laws of giving memory back when a model is gone: on the devices too, by libraries that are there
and never by one that is only being imported.
"""

import gc
import sys
import threading
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from penstock_kernels import run, streams
from penstock_runtime.backends import host
from penstock_runtime.backends.host import release_memory, settle
from penstock_runtime.repository.background import Retirement


class FakeTorch:
    """As much of torch as has caches."""

    def __init__(self, *, used: bool = True) -> None:
        self.emptied: list[str] = []
        self.cuda = SimpleNamespace(
            is_initialized=lambda: used, empty_cache=lambda: self.emptied.append("device")
        )
        self._C = SimpleNamespace(_host_emptyCache=lambda: self.emptied.append("pinned"))


class Cycle:
    """Garbage only for who looks for it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_settled_is_looked_at_again_only_when_a_model_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Garbage that there is already goes first; later collections pass over the rest."""
    monkeypatch.setattr(host._Settled, "now", False)
    before = gc.get_freeze_count()
    gone, kept = weakref.ref(Cycle()), Cycle()
    watched = weakref.ref(kept)

    try:
        settle()
        del kept
        gc.collect()
        settled = gc.get_freeze_count() > before, gone() is None, watched() is not None
        release_memory()
        released = watched() is None, gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        if before:
            gc.freeze()

    assert settled == (True, True, True)
    assert released == (True, True)


def test_what_another_froze_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was settled, the process is not ours."""
    monkeypatch.setattr(host._Settled, "now", False)
    calls: list[str] = []
    for name in ("freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, partial(calls.append, name))

    release_memory()

    assert calls == []


def test_what_torch_keeps_is_given_back_pinned_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is in use on a GPU; asking it would bring CUDA up."""
    used, unused = FakeTorch(), FakeTorch(used=False)
    for torch in (used, unused):
        monkeypatch.setitem(sys.modules, "torch", torch)
        release_memory()

    assert used.emptied == ["device", "pinned"]
    assert unused.emptied == []


def test_a_torch_without_pinned_caches_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = FakeTorch()
    torch._C = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", torch)

    release_memory()

    assert torch.emptied == ["device"]


def test_a_torch_that_another_thread_is_importing_is_not_there_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model of it may be loaded while another launches kernels, or is unloaded."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())

    release_memory()

    assert streams.torch_stream() is None


def test_what_cupy_keeps_is_given_back_where_kernels_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And where none ever was, nothing is asked."""
    released: list[int] = []
    runner: Any = SimpleNamespace(release=lambda: released.append(1))
    monkeypatch.setattr(run, "_made_runner", lambda: None)
    release_memory()
    before = list(released)
    monkeypatch.setattr(run, "_made_runner", lambda: runner)
    release_memory()

    assert (before, released) == ([], [1])


def test_a_model_that_is_retired_gives_back_what_devices_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one whose own code does not: the next model is measured by what is free."""
    torch = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    model: Any = SimpleNamespace(
        version=1, memory_bytes=dict, drain=lambda _limit: True, stop=lambda: None
    )
    done = threading.Event()

    Retirement(1.0).retire("m", [model], replaced=False, then=done.set).join()

    assert done.is_set()
    assert torch.emptied == ["device", "pinned"]
