"""The process of one instance: `python -m penstock_runtime.isolation.child SOCKET LIFELINE`.

It loads one model by the ordinary backends and does what the server says, one execution after the
other, in its main thread. It ends when the server does.
"""

import faulthandler
import fcntl
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock_runtime.backends.base import (
    AnyExecutable,
    Executable,
    LoadedModel,
    ModelSource,
    Placement,
    RequestExecutable,
    StreamingExecutable,
)
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.host import settle
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config_reader import config_to_dict, read_config
from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.isolation.child_link import ChildLink
from penstock_runtime.isolation.child_services import remote_services
from penstock_runtime.isolation.child_work import Batches, Requests, Streams, Worker
from penstock_runtime.isolation.frames import PROTOCOL, Channel, Frame, Kind
from penstock_runtime.isolation.values import error_note

_log = logging.getLogger("penstock.model")


def main() -> None:
    """Serve until the server says that it is enough."""
    faulthandler.enable()
    link, lifeline = (int(number) for number in sys.argv[1:3])
    # What the model starts itself shall not keep the server's end open.
    os.set_inheritable(link, False)
    os.set_inheritable(lifeline, False)
    end_with(lifeline)
    channel = Channel(socket.socket(fileno=link), takes_fds=True)
    first = channel.receive()
    if first is None or first.kind is not Kind.HELLO:
        os._exit(1)
    serve(ChildLink(channel, first.note), first)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not by way of threads that the model has forgotten.
    os._exit(0)


def end_with(lifeline: int) -> None:
    """Have the kernel end this process when the server is gone: it holds the other end, and the
    signal for whoever reads a pipe ends those who expect none, whatever they are at.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    look = select.poll()
    look.register(lifeline, select.POLLHUP)
    if look.poll(0):
        os._exit(1)


def serve(link: ChildLink, first: Frame) -> None:
    """Do what the first message says, and then, if that is to load, what all others say."""
    note = first.note
    _log_to(link, note.get("log", logging.INFO))
    link.start(float(note.get("beat", 0.5)))
    try:
        if note.get("protocol") != PROTOCOL:
            raise Internal(f"the server speaks version {note.get('protocol')}, expected {PROTOCOL}")
        source = source_of(link, note)
        if note["mode"] == "complete":
            completed = default_registry(isolates=False).find(source).complete(source)
            link.send(Kind.READY, first.number, {"config": config_to_dict(completed)})
            link.wait_for_close()
            return
        loaded = default_registry(isolates=False).find(source).load(source)
        executable = loaded.executable(Placement(*note["placement"]))
    except (Exception, SystemExit) as error:
        known = error
        if not isinstance(error, PenstockError):
            known = load_failure(error, str(note["config"].get("name", "")), "the load")
        link.send(Kind.FAILED, first.number, {"error": error_note(known)})  # type: ignore[arg-type]
        link.wait_for_close()
        return
    settle()
    work(link, first.number, source, loaded, executable)


def source_of(link: ChildLink, note: Mapping[str, Any]) -> ModelSource:
    """What is to be loaded."""
    source = ModelSource(
        read_config(note["config"]),
        note["version"],
        Path(note["directory"]),
        Path(note["root"]),
        note["pickle"],
    )
    return replace(source, services=remote_services(link)) if note["services"] else source


def work(
    link: ChildLink,
    number: int,
    source: ModelSource,
    loaded: LoadedModel,
    executable: AnyExecutable,
) -> None:
    """Execute until the server has enough."""
    form, worker = worker_of(link, source, executable)
    if isinstance(executable, RequestExecutable):
        requests = executable
        link.is_ready = lambda: requests.ready
    link.send(Kind.READY, number, {"form": form, "memory": dict(loaded.memory_bytes())})
    doing: Mapping[Kind, Callable[[Frame], None]] = {
        Kind.EXECUTE: worker.execute,
        Kind.STREAM: worker.execute,
        Kind.REQUESTS: worker.execute,
    }
    while (frame := link.next_work()) is not None:
        if frame.kind is Kind.FINALIZE:
            if isinstance(executable, RequestExecutable):
                executable.finalize()
            link.send(Kind.END, frame.number)
            continue
        doing[frame.kind](frame)
        # It holds what was sent with it.
        del frame
        link.flush_freed()
    executable.close()
    loaded.close()


def worker_of(
    link: ChildLink, source: ModelSource, executable: AnyExecutable
) -> tuple[str, Worker]:
    """What kind of executable it is, and what calls it."""
    if isinstance(executable, RequestExecutable):
        return "requests", Requests(link, source, executable)
    if isinstance(executable, StreamingExecutable):
        return "stream", Streams(link, source, executable)
    assert isinstance(executable, Executable)
    return "batch", Batches(link, source, executable)


class _Handler(logging.Handler):
    """Sends records to the server's log."""

    def __init__(self, link: ChildLink) -> None:
        super().__init__()
        self._link = link
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        try:
            note = {"level": record.levelno, "text": self.format(record)[:16384]}
            self._link.send(Kind.LOG, 0, note)
        except Exception:
            self.handleError(record)


def _log_to(link: ChildLink, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Handler(link)]
    root.setLevel(level)


if __name__ == "__main__":
    main()
