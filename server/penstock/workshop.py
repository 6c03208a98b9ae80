"""What the inference calls of one server share, and the work that must not be done on the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from penstock.admission import Admission
from penstock.interceptors import Gate
from penstock.limits import ByteBudget
from penstock.load_report import LoadReporter
from penstock_runtime.datatype import DataType
from penstock_runtime.loop_inbox import LoopInbox
from penstock_runtime.observability.access_log import AccessLog
from penstock_runtime.request import InferResponse

P = ParamSpec("P")
T = TypeVar("T")

# Elements that take about a millisecond to write one by one.
_HEAVY_BYTES_ELEMENTS = 4096
_HEAVY_TYPED_ELEMENTS = 65536


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream; times in seconds."""

    max_inflight: int = 256
    max_unsent_bytes: int = 64 << 20
    stall_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """The tools of inference; `threads` are for what would hold up the loop."""

    admission: Admission
    inbox: LoopInbox
    threads: ThreadPoolExecutor
    budget: ByteBudget
    gate: Gate
    limits: StreamLimits
    access: AccessLog
    load: LoadReporter

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run this in a thread while the loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(work, *args, **kwargs))


def is_heavy_response(response: InferResponse, typed: bool) -> bool:
    """Whether encoding a response takes long enough to hold up the loop."""
    for output in response.outputs:
        if output.datatype is DataType.BYTES:
            if output.elements > _HEAVY_BYTES_ELEMENTS:
                return True
        elif typed and output.elements > _HEAVY_TYPED_ELEMENTS:
            return True
    return False
