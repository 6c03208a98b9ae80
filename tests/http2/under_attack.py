"""A server under attack: a neighbour whose calls go on all the time, and nothing left after."""

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pytest
from tests.http2.frames import window_update
from tests.http2.loops import FACTORIES
from tests.http2.raw import RawClient, eventually
from tests.http2.service import Serving, serving

OURS = "penstock.transport.http2"
CROWD = 60
"""Streams that a connection may have in these tests."""
LOOP = {"loop_name": "asyncio"}
"""How `attacked` serves; the fixture sets it."""


@pytest.fixture(autouse=True, params=FACTORIES)
def loop_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything happens on asyncio's loop and on uvloop's."""
    monkeypatch.setitem(LOOP, "loop_name", request.param)


class Neighbour:
    """A well-behaved client in a thread, which calls all the time that its block runs."""

    def __init__(self, address: str) -> None:
        self.calls = 0
        self._client = RawClient(address)
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._client.start()
        self._thread.start()
        eventually(lambda: self.calls > 0, "a first call of the neighbour")
        return self

    def __exit__(self, *_: object) -> None:
        before = self.calls
        eventually(lambda: self.calls > before or not self._thread.is_alive(), "one more call")
        self._stop.set()
        self._thread.join(30)
        self._client.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                stream = 2 * self.calls + 1
                body = b"%d" % stream
                answer = self._client.call(stream, body, "/q/Echo" if self.calls % 2 else "/s/Echo")
                assert (answer.status, answer.messages) == (0, [body]), answer
                self._client.answers.clear()
                self._client.seen.clear()
                # Otherwise the other side's windows would close some time.
                self._client.send(window_update(0, 100))
                self.calls += 1
                self._stop.wait(0.002)
        except BaseException as error:
            self._failure = error


@contextmanager
def attacked(**options: Any) -> Iterator[Serving]:
    """A server under attack: a neighbour's calls go on, and afterwards nothing is left over."""
    options.setdefault("max_concurrent_streams", CROWD)
    # Other servers of this process, whose tests may not be over yet, have some too.
    before = leftovers()
    with serving("http2", **LOOP, **options) as served:
        with Neighbour(served.address):
            yield served
        nothing_is_left(served, before)


def nothing_is_left(served: Serving, before: Sequence[Any] = ()) -> None:
    """No connection, stream, call, handler or task, and no object of theirs but those that were
    there before.
    """
    known = {id(one) for one in before}
    eventually(lambda: served.connections == 0, "connections are closed")
    eventually(lambda: served.service.inside == 0, f"{served.service.inside} handlers end")
    eventually(lambda: served.tasks() == 1, "tasks end")
    assert served.streams == 0
    eventually(lambda: all(id(one) in known for one in leftovers()), "memory is given back")


def leftovers() -> list[Any]:
    """Objects of a connection's own that are still alive."""
    gc.collect()
    # Not assemblers: other tests leave some of the bare core behind.
    kinds = ("ServerProtocol", "ServerCall", "Link", "Inbox")
    return [
        one
        for one in gc.get_objects()
        if type(one).__name__ in kinds and type(one).__module__.startswith(OURS)
    ]
