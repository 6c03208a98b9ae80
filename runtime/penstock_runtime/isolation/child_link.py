"""The process of a model and its server: what is sent, what comes, and the heartbeat.

The socket is read by a thread of its own, which does at once what cannot wait for the execution
under way.
"""

import os
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from penstock_runtime.datatype import DataType
from penstock_runtime.isolation.child_memory import ChildMemory
from penstock_runtime.isolation.frames import Channel, Frame, Kind
from penstock_runtime.isolation.tensors import pack
from penstock_runtime.isolation.values import error_of
from penstock_runtime.request import EMPTY

_WORK = frozenset({Kind.EXECUTE, Kind.STREAM, Kind.REQUESTS, Kind.FINALIZE})
_NONE: Mapping[str, DataType] = {}
Listener = Callable[[Frame], None]


class ChildLink:
    """`is_ready` is told with each heartbeat."""

    def __init__(self, channel: Channel, hello: Mapping[str, Any]) -> None:
        self.channel = channel
        self.memory = ChildMemory(channel)
        self.is_ready: Callable[[], bool] = lambda: True
        self.hello = hello
        self._work: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._early: dict[tuple[str, int], list[Frame]] = {}
        self._answers: dict[int, queue.SimpleQueue[Frame]] = {}
        self._chores: dict[object, Callable[[], bool]] = {}

    def start(self, beat_s: float) -> None:
        """Begin to read, and to show that there is life."""
        for target, what in ((self._read, "reads"), (self._beat, "beats")):
            arguments = (beat_s,) if what == "beats" else ()
            threading.Thread(
                target=target, args=arguments, name=f"penstock-{what}", daemon=True
            ).start()

    # -- what is sent ------------------------------------------------------------------------------

    def send(
        self,
        kind: Kind,
        number: int = 0,
        note: Mapping[str, Any] = EMPTY,
        arrays: Mapping[str, Any] | None = None,
        datatypes: Mapping[str, DataType] = _NONE,
    ) -> None:
        """Tell the server something, and what it may use again."""
        told = dict(note)
        data: tuple[Any, ...] = ()
        block = None
        if arrays is not None:
            packed = pack(arrays, self.memory.arena)
            told.update(packed.note)
            data, block = packed.data, packed.block
            told["types"] = {name: datatype.value for name, datatype in datatypes.items()}
        freed = self.memory.take_freed()
        if freed:
            told["free"] = freed
        try:
            self.channel.send(kind, number, told, data)
        except BaseException:
            if block is not None:
                self.memory.arena.give(block.segment, block.start)
            raise

    def flush_freed(self) -> None:
        """Give back what nothing refers to any more."""
        freed = self.memory.take_freed()
        if freed:
            self.channel.send(Kind.FREE, 0, {"free": freed})

    def ask(self, what: str, data: bytes = b"", **note: Any) -> dict[str, Any]:
        """The server's answer to a question. Raises its error."""
        number = next(self._numbers)
        box: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._answers[number] = box
        try:
            self.channel.send(Kind.ASK, number, {"what": what, **note}, (data,) if data else ())
            answer = box.get().note
        finally:
            del self._answers[number]
        if "error" in answer:
            raise error_of(answer["error"])
        return answer

    def number(self) -> int:
        """One that was not used yet."""
        return next(self._numbers)

    # -- what comes --------------------------------------------------------------------------------

    def next_work(self) -> Frame | None:
        """What is to be executed; None at the end."""
        return self._work.get()

    def wait_for_close(self) -> None:
        """Return at the end; nothing more is executed."""
        while self._work.get() is not None:
            continue

    def listen(self, what: str, number: int, listener: Listener) -> None:
        """Call this, in the reading thread, with what comes for an execution, a task or a call."""
        with self._lock:
            self._listeners[what, number] = listener
            early = self._early.pop((what, number), [])
        for frame in early:
            listener(frame)

    def forget(self, what: str, number: int) -> None:
        """Nothing that comes for it matters any more."""
        with self._lock:
            self._listeners.pop((what, number), None)

    def _read(self) -> None:
        with suppress(OSError):
            while (frame := self.channel.receive()) is not None:
                self._take(frame)
        # The server is gone, and so is whoever would want what the model is at.
        os._exit(1)

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind in _WORK:
            self._expect(frame)
            self._work.put(frame)
        elif kind is Kind.CLOSE:
            self._work.put(None)
        elif kind is Kind.RELEASE:
            self.memory.released(frame)
        elif kind in (Kind.SEGMENT, Kind.DROP, Kind.NO_SEGMENT):
            self.memory.take(frame)
        elif kind is Kind.REPLY:
            box = self._answers.get(frame.number)
            if box is not None:
                box.put(frame)
        elif kind is Kind.CALL_ANSWER:
            self._hand_on("call", frame)
        elif kind in (Kind.CANCEL, Kind.CREDIT):
            self._hand_on("task" if frame.note.get("task") else "work", frame)

    def _expect(self, frame: Frame) -> None:
        """What comes before the execution has begun is kept for it."""
        with self._lock:
            if frame.kind is Kind.REQUESTS:
                for request in frame.note["requests"]:
                    self._early["task", request["task"]] = []
            else:
                self._early["work", frame.number] = []

    def _hand_on(self, what: str, frame: Frame) -> None:
        key = what, frame.number
        with self._lock:
            listener = self._listeners.get(key)
            if listener is None and key in self._early:
                self._early[key].append(frame)
        if listener is not None:
            listener(frame)

    # -- the heartbeat -----------------------------------------------------------------------------

    def add_chore(self, key: object, chore: Callable[[], bool]) -> None:
        """Try this with each heartbeat until it succeeds."""
        with self._lock:
            self._chores[key] = chore

    def _beat(self, every_s: float) -> None:
        pause = threading.Event()
        with suppress(OSError):
            while True:
                self.send(Kind.BEAT, 0, {"ready": bool(self.is_ready())})
                if self.memory.arena.has_idle:
                    self.memory.trim()
                for _ in range(10):
                    pause.wait(every_s / 10 if self._chores else every_s)
                    if not self._do_chores():
                        break

    def _do_chores(self) -> bool:
        """Whether there were any."""
        with self._lock:
            chores = list(self._chores.items())
        for key, chore in chores:
            if chore():
                with self._lock:
                    self._chores.pop(key, None)
        return bool(chores)
