"""One life of a model's process, as the server sees it: what is asked of it, what it answers, and
how it ended. Another life is another object.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from penstock_runtime.errors import FailureReason, InstanceDied, PenstockError
from penstock_runtime.isolation.frames import PROTOCOL, BrokenProtocol, Channel, Frame, Kind
from penstock_runtime.isolation.memory import ServerMemory
from penstock_runtime.isolation.question import Box, Question
from penstock_runtime.isolation.segments import Block
from penstock_runtime.isolation.settings import Settings
from penstock_runtime.isolation.spawn import Spawned
from penstock_runtime.isolation.tensors import pack
from penstock_runtime.isolation.values import count_of, text_of

_log = logging.getLogger("penstock.model")

# How long an interpreter may take to start; nothing of the model's is executed until then.
START_S = 60.0
# More answers than this to one question are in nobody's hands.
MOST_UNREAD = 256
# How long a process may take to end when it is asked to, then when it is told to.
CLOSE_S, TERM_S, KILL_S = 5.0, 1.0, 1.0
# What is said of a process that has closed its end; mostly it has ended and nobody knows yet how.
_DEAF = "stopped to listen"
_OF_A_QUESTION = frozenset(
    {Kind.READY, Kind.FAILED, Kind.RESULT, Kind.RESPONSE, Kind.END, Kind.ERROR}
)


class Desk(Protocol):
    """What the process may ask of the server, or answer to tasks."""

    def handle(self, frame: Frame) -> bool:
        """Do what a frame says; False if it says nothing that is known. Never blocks."""

    def close(self, error: InstanceDied) -> None:
        """The process is gone."""


class Life:
    """Made alive by `__init__`; `on_end` is called when it cannot be used any more, from any
    thread, maybe twice.
    """

    def __init__(
        self,
        model: str,
        name: str,
        settings: Settings,
        desk: "Callable[[Life], Desk]",
        on_end: Callable[[], None],
    ) -> None:
        self._model = model
        self._name = name
        self._settings = settings
        self._on_end = on_end
        self._numbers = count(1)
        self._asking = threading.Lock()
        self._boxes: dict[int, Box] = {}
        self._outbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._accused = ""
        self._died: InstanceDied | None = None
        self._over = threading.Event()
        self.says_ready = True
        self.closing = False
        self._begun = threading.Event()
        known = name if name.startswith(model) else f"{model} {name}"
        self.process = Spawned(known, self._end)
        link = self.process.link
        link.settimeout(None)
        self.channel = Channel(link)
        self.memory = ServerMemory(self.channel, settings.memory_bytes)
        self._desk = desk(self)
        self._reader = threading.Thread(target=self._read, name=f"{name}-reads", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"{name}-writes", daemon=True)
        self._reader.start()
        self._writer.start()
        self._begun.set()

    # -- what is asked -----------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._died is None and not self._accused

    @property
    def over(self) -> bool:
        """Whether nothing more comes from it."""
        return self._died is not None

    def question(self) -> Question:
        """Something to ask, and wait for."""
        return Question(self, next(self._numbers))

    def send(
        self,
        kind: Kind,
        number: int = 0,
        note: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell the process something; InstanceDied if it is gone. May block."""
        try:
            if arrays is None:
                self.channel.send(kind, number, note)
                return
            packed = pack(arrays, self.memory.arena)
            try:
                self.channel.send(kind, number, {**(note or {}), **packed.note}, packed.data)
            except BaseException:
                if packed.block is not None:
                    self.memory.arena.give(packed.block.segment, packed.block.start)
                raise
        except OSError:
            raise self.death() from None

    def post(self, work: Callable[[], None]) -> None:
        """Have the writing thread do this; never blocks."""
        self._outbox.put(work)

    def release(self, block: Block | None, *, later: bool = False) -> None:
        """The process may use this block again."""
        if block is None:
            return
        note = {"block": [block.segment, block.start]}
        if later:
            self.post(lambda: self.send(Kind.RELEASE, 0, note))
        else:
            self.send(Kind.RELEASE, 0, note)

    def death(self) -> InstanceDied:
        """How it ended, once it has; it cannot be used any more."""
        self._over.wait(CLOSE_S)
        return self._died or self._obituary("does not answer")

    # -- what it says ------------------------------------------------------------------------------

    def _read(self) -> None:
        self._begun.wait()
        patience_s = max(START_S, self._settings.heartbeat_s)
        self.process.set_patience(patience_s)
        try:
            while (frame := self.channel.receive()) is not None:
                self._take(frame)
                if patience_s != self._settings.heartbeat_s:
                    # It has begun, and its heart beats.
                    patience_s = self._settings.heartbeat_s
                    self.process.set_patience(patience_s)
        except BlockingIOError:
            self.accuse(f"gave no sign of life for {patience_s:g} s")
        except BrokenProtocol as broken:
            self.accuse(f"broke the protocol ({broken.message})")
        except OSError:
            self.accuse(_DEAF)
        except Exception:
            _log.exception("%s: a message could not be taken", self._name)
            self.accuse("said what could not be taken")
        else:
            # A process that has closed its end and lives on is of no use.
            self.accuse(_DEAF)

    def _take(self, frame: Frame) -> None:
        if "free" in frame.note:
            self.memory.freed(frame.note["free"])
        kind = frame.kind
        if kind in _OF_A_QUESTION:
            self._deliver(frame)
        elif kind is Kind.BEAT:
            self.says_ready = bool(frame.note.get("ready", True))
            if self.memory.arena.has_idle:
                self.post(self.memory.trim)
        elif kind is Kind.NEED:
            size = count_of(frame.note.get("size"))
            self.post(lambda: self.memory.need(size))
        elif kind is Kind.DROPPED:
            self.memory.dropped(frame.number)
        elif kind is Kind.LOG:
            level = min(count_of(frame.note.get("level")), logging.CRITICAL)
            self.process.tell(level, text_of(frame.note.get("text"), 1 << 16))
        elif kind is not Kind.FREE and not self._desk.handle(frame):
            raise BrokenProtocol(f"a frame {kind.name} was not expected")

    def _deliver(self, frame: Frame) -> None:
        with self._asking:
            box = self._boxes.get(frame.number)
            if box is not None:
                if box.qsize() >= MOST_UNREAD:
                    raise BrokenProtocol(f"more than {MOST_UNREAD} answers came to one question")
                box.put(frame)
        if box is None:
            # Asked by someone who does not wait any more.
            self.release(self.memory.arrays(frame)[1], later=True)

    def open(self, number: int, box: Box) -> None:
        """Answers to this number go there."""
        with self._asking:
            self._boxes[number] = box

    def shut(self, number: int) -> None:
        """Nobody waits for answers to this number any more."""
        with self._asking:
            box = self._boxes.pop(number)
        while not box.empty():
            frame = box.get()
            if frame is not None:
                self.release(self.memory.arrays(frame)[1], later=True)

    def _write(self) -> None:
        while (work := self._outbox.get()) is not None:
            try:
                work()
            except (OSError, InstanceDied):
                # Whoever waits for the process is told of its end elsewhere.
                continue
            except PenstockError as error:
                _log.error("%s: %s", self._name, error.message)
            except Exception:
                _log.exception("%s: something could not be told", self._name)

    # -- its end -----------------------------------------------------------------------------------

    def accuse(self, of: str) -> None:
        """End it for a reason of its own making, the first of which is told."""
        first, self._accused = not self._accused, self._accused or of
        if first:
            # At once: until then it is still given requests.
            self._on_end()
        if not self.process.wait(0.05):
            self.process.signal(9)

    def _end(self, how: str) -> None:
        """It has ended; in the thread that waited for it."""
        self._begun.wait()
        # What it said before is still heard.
        self._reader.join(KILL_S)
        self.channel.shut()
        told = self._accused
        ended_itself = not told or told == _DEAF
        self._died = self._obituary(how if ended_itself else told)
        self._on_end()
        if not self.closing:
            _log.error("%s", self._died.message)
        self._outbox.put(None)
        with self._asking:
            for box in self._boxes.values():
                box.put(None)
        self._over.set()
        self._desk.close(self._died)
        self._writer.join(KILL_S)
        self._reader.join(KILL_S)
        self.channel.close()

    def _obituary(self, how: str) -> InstanceDied:
        return InstanceDied(
            f"the process of model '{self._model}' ({self._name}) {how}",
            reason="INSTANCE_DIED",
            # Whoever sends it again by itself might end the next process as well.
            retry_after_ns=-1,
            failure=FailureReason.BACKEND,
            scheduled=True,
        )

    def close(self) -> None:
        """Have it end: asked to, then told to, then made to. Returns when it has."""
        self.closing = True
        with suppress(InstanceDied):
            self.send(Kind.CLOSE)
        if not self.process.wait(CLOSE_S):
            _log.warning("%s did not end within %.0f s and is ended", self._name, CLOSE_S)
            self.process.signal(15)
            if not self.process.wait(TERM_S):
                self.process.signal(9)
        self._over.wait(KILL_S + TERM_S)

    def kill(self) -> None:
        """Have it end now; returns when it has."""
        self.closing = True
        self.accuse("is not needed any more")
        self._over.wait(KILL_S + TERM_S)

    def __repr__(self) -> str:
        return f"<Life {self.process.pid}, {'alive' if self.alive else 'over'}>"


def hello(mode: str, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a process is told first."""
    level = logging.getLogger("penstock.model").getEffectiveLevel()
    return {"protocol": PROTOCOL, "mode": mode, "config": config, "log": level, **more}
