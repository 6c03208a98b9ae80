"""How a model answers a request from whatever thread it likes, when it likes.

A sender that is forgotten before its last response was sent fails its request, so that no caller
waits for what cannot come.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from penstock_runtime.backends.base import SLOW_READER_S, RequestTask
from penstock_runtime.backends.triton_python.constants import TRITONSERVER_RESPONSE_COMPLETE_FINAL
from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.orphans import ORPHANS
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.errors import FailureReason, Internal, PenstockError

FINAL = TRITONSERVER_RESPONSE_COMPLETE_FINAL
# A coroutine that waits for a slow reader holds up all the others of its model.
LOOP_PATIENCE_S = 1.0
Deliver = Callable[[RequestTask, InferenceResponse, bool, float], None]
"""Sends a response of a task; whether it is the last, and how long to wait for a slow reader."""


class InferenceResponseSender:
    """Sends the responses of one request."""

    __slots__ = ("_closed", "_decoupled", "_deliver", "_lock", "_number", "_task")

    def __init__(self, task: RequestTask, deliver: Deliver, *, decoupled: bool) -> None:
        self._task = task
        self._deliver = deliver
        self._decoupled = decoupled
        self._lock = threading.Lock()
        self._number = 0
        self._closed = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, the last one with TRITONSERVER_RESPONSE_COMPLETE_FINAL; or only say that
        there is no further one. TritonModelException for what comes after that.
        """
        if flags not in (0, FINAL):
            raise TritonModelException(
                f"Unable to send response. Flags are {flags!r}, expected 0 or 1"
            )
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException(
                f"Unable to send response. It is a {type(response).__name__}, expected an"
                " InferenceResponse"
            )
        self._count(response, flags)
        if response is not None:
            self._deliver(self._task, response, bool(flags), _patience_s())
        elif self._decoupled:
            self._task.finish()

    def _count(self, response: InferenceResponse | None, flags: int) -> None:
        with self._lock:
            if self._closed:
                raise TritonModelException(
                    "Unable to send response. Response sender has been closed."
                )
            if not self._decoupled and response is not None and self._number:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one"
                    " response."
                )
            if not self._decoupled and response is None and not self._number:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete final before"
                    " sending a response."
                )
            self._number += response is not None
            self._closed = bool(flags)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the responses any more."""
        return self._task.abandoned

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not (self._number and not self._decoupled):
            ORPHANS.put(partial(self._task.fail, _forgotten()))

    def __repr__(self) -> str:
        return f"<InferenceResponseSender {'closed' if self._closed else 'open'}>"


def close_sender(sender: InferenceResponseSender) -> bool:
    """Nothing more may be sent; whether something, or the end, had been sent before."""
    with sender._lock:
        used, sender._closed = bool(sender._number or sender._closed), True
    return used


def _patience_s() -> float:
    """How long the calling thread may wait for a slow reader."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return SLOW_READER_S
    return LOOP_PATIENCE_S


def _forgotten() -> PenstockError:
    return Internal(
        "the model let go of the request without a last response",
        reason="MODEL_FAILED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )
