"""Calls of other models by the code of a model in a process: they go where all requests go, and
their responses are sent as the process takes them.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from penstock_runtime.datatype import BY_WIRE_NAME
from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.tasks import OpenTasks
from penstock_runtime.isolation.tensors import pack
from penstock_runtime.isolation.values import count_of, error_note, request_of
from penstock_runtime.model_services import ModelServices
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor

# How many responses of one call may be on their way, and calls of one process under way.
WINDOW = 32
MOST_CALLS = 4096


class _CallInbox:
    """Has the news of one call looked at by the thread that writes to the process."""

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news

    def post(self, stream: ResponseStream) -> None:  # noqa: ARG002 - one inbox serves one stream
        """Something is new."""
        self._news()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back now."""
        callback()


class _Call:
    def __init__(self, number: int, news: Callable[["_Call"], None]) -> None:
        self.number = number
        self.credit = WINDOW
        self.stream = ResponseStream(_CallInbox(lambda: news(self)))


class ServerCalls:
    """The calls of one process."""

    def __init__(self, life: Life, services: ModelServices | None, tasks: OpenTasks) -> None:
        self._life = life
        self._tasks = tasks
        self._services = services
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._closed = False

    def handle(self, frame: Frame) -> bool:
        """Do what a frame says; False if it says nothing of calls."""
        if frame.kind is Kind.CALL:
            self._begin(frame)
        elif frame.kind is Kind.CALL_END:
            call = self._forget(frame.number)
            if call is not None:
                call.stream.cancel()
        elif frame.kind is Kind.CALL_CREDIT:
            with self._lock:
                call = self._calls.get(frame.number)
                if call is not None:
                    call.credit = min(call.credit + count_of(frame.note.get("count")), WINDOW)
            if call is not None:
                self._news(call)
        else:
            return False
        return True

    def _begin(self, frame: Frame) -> None:
        if self._services is None:
            raise BrokenProtocol("a model is called, and there is no server")
        arrays, block = self._life.memory.arrays(frame)
        self._life.release(block, later=True)
        words = frame.note.get("types")
        if not isinstance(words, dict):
            raise BrokenProtocol("a call does not say what its inputs are")
        request = request_of(frame.note.get("request"))._replace(
            inputs=tuple(_tensor(name, words.get(name), a) for name, a in arrays.items()),
            received_ns=time.monotonic_ns(),
        )
        trace = self._tasks.trace_of(count_of(frame.note.get("for", 0)))
        if trace is not None:
            child = trace.child(request.model_name, request.received_ns, request.id)
            request = request._replace(trace=child)
        call = _Call(frame.number, self._news)
        with self._lock:
            refused = self._closed or len(self._calls) >= MOST_CALLS
            if not refused:
                self._calls[frame.number] = call
        try:
            if refused:
                raise Unavailable(f"{MOST_CALLS} calls of one process are under way already")
            self._services.dispatch.infer(request, call.stream)
        except PenstockError as error:
            self._forget(call.number)
            note = {"error": error_note(error)}
            self._life.post(lambda: self._life.send(Kind.CALL_ANSWER, frame.number, note))

    def _forget(self, number: int) -> _Call | None:
        with self._lock:
            return self._calls.pop(number, None)

    def _news(self, call: _Call) -> None:
        self._life.post(lambda: self._tell(call))

    def _tell(self, call: _Call) -> None:
        """Send what there is of a call; in the writing thread, so that it stays in order."""
        if self._calls.get(call.number) is not call:
            return
        try:
            while call.credit > 0 and (response := call.stream.pop()) is not None:
                with self._lock:
                    call.credit -= 1
                self._send(call, response)
        except PenstockError as error:
            self._forget(call.number)
            self._life.send(Kind.CALL_ANSWER, call.number, {"error": error_note(error)})
            call.stream.cancel()
            return
        if call.stream.exhausted:
            self._forget(call.number)
            self._life.send(Kind.CALL_ANSWER, call.number, {"closed": True})

    def _send(self, call: _Call, response: InferResponse) -> None:
        arena = self._life.memory.arena
        packed = pack({t.name: t.numpy() for t in response.outputs}, arena)
        note = {
            "types": {t.name: t.datatype.value for t in response.outputs},
            "model": response.model_name,
            "version": response.model_version,
            "id": response.id,
            "parameters": dict(response.parameters),
            "final": response.final,
            "empty": response.empty,
        }
        try:
            self._life.channel.send(
                Kind.CALL_ANSWER, call.number, {**note, **packed.note}, packed.data
            )
        except BaseException:
            if packed.block is not None:
                arena.give(packed.block.segment, packed.block.start)
            raise

    def close(self) -> None:
        """The process is gone, and nobody waits for these any more."""
        with self._lock:
            self._closed = True
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.stream.cancel()


def _tensor(name: str, word: Any, array: Any) -> Tensor:
    datatype = BY_WIRE_NAME.get(word) if isinstance(word, str) else None
    if datatype is None:
        raise BrokenProtocol(f"input '{name[:64]}' of a call has no datatype")
    return Tensor(name, datatype, tuple(array.shape), array)
