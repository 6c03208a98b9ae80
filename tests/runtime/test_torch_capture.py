"""Laws of capturing a CUDA graph, on a torch.cuda that only keeps account: which GPU's streams are
used, and what is left where a capture fails.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from penstock_runtime.backends import torch_capture
from penstock_runtime.backends.torch_capture import Capturing

GPU = torch.device("cuda", 1)


@dataclass(eq=False)
class Stream:
    """One of a GPU; remembers for whom it waited."""

    device: int
    name: str = "made"
    waited: list[Any] = field(default_factory=list)

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


class FakeCuda:
    """Current device and streams as torch has them, and its `graph`, which behaves as that does
    where a call, or the end of the recording, fails.
    """

    def __init__(self) -> None:
        self.index = 0
        self.current = {0: Stream(0, "default 0"), 1: Stream(1, "default 1")}
        self.recordings: list[tuple[Any, Any]] = []
        self.replays = 0
        self.broken = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        torch_capture._streams.cache_clear()
        for name in ("device", "stream", "current_stream", "current_device", "graph"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", lambda device: Stream(device.index))
        patch.setattr(torch.cuda, "CUDAGraph", self._graph)

    def _graph(self) -> Any:
        number = len(self.recordings)
        return SimpleNamespace(replay=self._replay, pool=lambda: f"pool of {number}")

    def _replay(self) -> None:
        self.replays += 1

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.index = self.index, device.index
        try:
            yield
        finally:
            self.index = before

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        device, before = self.index, self.current[self.index]
        self._set(stream)
        try:
            yield
        finally:
            self._set(before)
            self.index = device

    def current_stream(self) -> Stream:
        return self.current[self.index]

    def current_device(self) -> int:
        return self.index

    @contextlib.contextmanager
    def graph(
        self, _graph: Any, pool: Any, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        before = self.current[self.index]
        self._set(stream)
        self.recordings.append((stream, pool))
        try:
            yield
        finally:
            if self.broken:
                # As torch: its own stream stays where the end of the recording fails.
                raise RuntimeError("operation failed due to a previous error during capture")
            self._set(before)

    def _set(self, stream: Stream) -> None:
        self.index = stream.device
        self.current[stream.device] = stream


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    with monkeypatch.context() as patch:
        fake.install(patch)
        yield fake
    torch_capture._streams.cache_clear()


def test_a_graph_is_recorded_on_its_own_gpu(cuda: FakeCuda) -> None:
    """Also in a process whose first capture was on another, to whose stream torch would go back:
    the call would run, and the graph hold nothing.
    """
    on: list[Any] = []

    for ordinal in (0, 1):
        device = torch.device("cuda", ordinal)
        Capturing(device).capture(lambda: on.append(torch.cuda.current_stream()), warm_calls=2)

    assert [stream.device for stream in on] == [0, 0, 0, 1, 1, 1]
    assert [stream.device for stream, _ in cuda.recordings] == [0, 1]
    assert on[-1] is cuda.recordings[-1][0]
    assert on[-2] is not on[-1]
    assert cuda.index == 0


def test_calls_beside_come_after_what_was_enqueued_and_before_what_follows(
    cuda: FakeCuda,
) -> None:
    on: list[Any] = []

    Capturing(GPU).capture(lambda: on.append(torch.cuda.current_stream()), warm_calls=1)

    beside, default = on[0], cuda.current[1]
    assert beside.waited == [default]
    assert default.waited == [beside]


def test_graphs_of_one_owner_share_a_pool_and_streams(cuda: FakeCuda) -> None:
    """What cuBLAS keeps for a stream it keeps once; another owner has a pool of its own."""
    capturing = Capturing(GPU)

    for _ in range(2):
        replay, made = capturing.capture(lambda: "outputs")
    Capturing(GPU).capture(lambda: None)
    replay()

    streams, pools = zip(*cuda.recordings, strict=True)
    assert len(set(map(id, streams))) == 1
    assert pools == (None, "pool of 0", None)
    assert (made, cuda.replays) == ("outputs", 1)


def test_a_capture_that_fails_leaves_its_thread_where_it_was(cuda: FakeCuda) -> None:
    """On the stream and the GPU that were current; and the error is the first."""
    before = dict(cuda.current)
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 4:
            cuda.broken = True
            raise ValueError("it looks at its numbers")

    with pytest.raises(ValueError, match="looks at its numbers"):
        Capturing(GPU).capture(call)

    assert cuda.current == before
    assert cuda.index == 0


def test_after_a_failure_the_next_graph_has_a_fresh_pool(cuda: FakeCuda) -> None:
    """The one before may still count as recorded into."""
    capturing = Capturing(GPU)
    capturing.capture(lambda: None)
    cuda.broken = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        capturing.capture(lambda: None)
    cuda.broken = False

    capturing.capture(lambda: None)

    assert [pool for _, pool in cuda.recordings] == [None, "pool of 0", None]
