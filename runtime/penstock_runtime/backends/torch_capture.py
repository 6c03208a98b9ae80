"""One capture of a CUDA graph: on the streams of its own GPU, never two at once in a process, and
without a trace in the thread where it fails.
"""

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")
# torch knows one capture at a time; whoever captures also waits for the device and empties caches.
_ONE_AT_A_TIME = threading.Lock()


class _Streams(NamedTuple):
    """Of one GPU: on the first a call is warmed up, on the second it is recorded."""

    beside: Any
    recording: Any


class Capturing:
    """Captures on one GPU. All of its graphs share one pool of memory, and must not run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def capture(self, call: Callable[[], T], warm_calls: int = 3) -> tuple[Callable[[], None], T]:
        """What replays the call, and what it gave, which every replay fills anew. Before it is
        recorded the call is made a few times beside, since libraries allocate at their first.
        """
        with _ONE_AT_A_TIME, torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            # torch leaves its own stream current where the end of a capture fails.
            with torch.cuda.stream(here):
                streams = _streams(torch.cuda.current_device())
                _warmed(call, warm_calls, here, streams.beside)
                return self._recorded(call, streams.recording)

    def _recorded(self, call: Callable[[], T], stream: Any) -> tuple[Callable[[], None], T]:
        graph = torch.cuda.CUDAGraph()
        cause: Exception | None = None
        try:
            # Left to itself torch records on a stream of the GPU on which it first did so. Other
            # threads go on working meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                try:
                    made = call()
                except Exception as error:
                    cause = error
                    raise
        except Exception as error:
            # The pool may still count as recorded into; and what broke first says more than that
            # the end of the recording failed too.
            self._pool = None
            raise cause or error from None
        self._pool = graph.pool()
        return graph.replay, made


def _warmed(call: Callable[[], Any], calls: int, here: Any, beside: Any) -> None:
    beside.wait_stream(here)
    with torch.cuda.stream(beside):
        for _ in range(calls):
            call()
    here.wait_stream(beside)


@cache
def _streams(index: int) -> _Streams:
    """Made once for each GPU: what cuBLAS keeps for a stream is kept once, and not per graph."""
    made = [torch.cuda.Stream(torch.device("cuda", index)) for _ in range(2)]  # type: ignore[no-untyped-call]
    return _Streams(*made)
