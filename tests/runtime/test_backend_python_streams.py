"""Laws of Python models, four: generators, coroutines and async generators."""

import sys
import threading
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tests.runtime.model_folders import (
    context,
    executable,
    load,
    responses,
    write_model,
)

from penstock_runtime.backends.base import (
    AnyExecutable,
    Executable,
    Placement,
    StreamingExecutable,
)
from penstock_runtime.errors import (
    Cancelled,
    Internal,
)
from penstock_runtime.stream import ResponseStream

ONES = np.ones((2, 3), np.float32)


COUNTS = """
CLOSED = []
def predict(n: INT64[1]) -> Iterator[INT64[1]]:
    try:
        for i in range(n[0]):
            yield i
    finally:
        CLOSED.append(True)
"""


def test_a_generator_answers_as_it_yields_and_is_closed_when_abandoned(tmp_path: Path) -> None:
    """Every yield is a response; closing the stream closes the generator."""
    source = write_model(tmp_path, COUNTS)
    config, loaded = load(source)
    closed = next(m for n, m in sys.modules.items() if n.endswith(".model") and "_penstock" in n)
    made = cast(StreamingExecutable, loaded.executable(Placement("m_0")))

    all_of_them = [r["OUTPUT0"].tolist() for r in made.stream({"n": np.array([3])}, context())]
    endless = made.stream({"n": np.array([10**12])}, context())
    first = next(endless)["OUTPUT0"].tolist()
    endless.close()  # type: ignore[attr-defined]
    loaded.close()

    assert config.decoupled
    assert config.dynamic_batching is None
    assert all_of_them == [[0], [1], [2]]
    assert first == [0]
    assert vars(closed)["CLOSED"] == [True, True]


def test_a_stream_that_fails_gave_what_came_before(tmp_path: Path) -> None:
    """Responses before the exception stand."""
    text = """
    def predict(n: INT64[1]) -> Iterator[INT64[1]]:
        yield n
        raise ValueError("dry")
    """
    with executable(write_model(tmp_path, text)) as made:
        stream = cast(StreamingExecutable, made).stream({"n": np.array([7])}, context())

        first = next(iter(stream))

        assert first["OUTPUT0"].tolist() == [7]
        with pytest.raises(Internal, match="dry"):
            next(iter(stream))


def test_async_models_run_on_one_loop_of_their_own(tmp_path: Path) -> None:
    """Coroutines and async hooks of all instances share a thread that no instance has."""
    text = """
    import asyncio, threading
    class Model:
        async def load(self, args):
            await asyncio.sleep(0)
            self.home = threading.get_ident()
        async def predict(self, x: INT64[1]) -> INT64[2]:
            await asyncio.sleep(0)
            return [self.home, threading.get_ident()]
    """
    _, loaded = load(write_model(tmp_path, text))

    made = [cast(Executable, loaded.executable(Placement(f"m_{i}"))) for i in (0, 1)]
    idents = {i for m in made for i in m.execute({"x": np.array([1])}, [context()])["OUTPUT0"]}
    before = threading.active_count()
    loaded.close()

    assert len(idents) == 1
    assert threading.get_ident() not in idents
    assert threading.active_count() == before - 1


def test_an_async_generator_streams_and_its_failure_comes_last(tmp_path: Path) -> None:
    """Responses in order, from one task, then the exception."""
    text = """
    import asyncio
    async def predict(n: INT64[1]) -> AsyncIterator[INT64[1]]:
        async with asyncio.timeout(30):
            for i in range(n[0]):
                await asyncio.sleep(0)
                yield i
        if n[0] == 2:
            raise ValueError("two is too few")
    """
    source = write_model(tmp_path, text)

    answers = [r["OUTPUT0"].tolist() for r in responses(source, {"n": np.array([3])})]

    assert answers == [[0], [1], [2]]
    with pytest.raises(Internal, match="two is too few"):
        responses(source, {"n": np.array([2])})


WAITS = """
import asyncio, threading
STARTED, CANCELLED = threading.Event(), threading.Event()
async def wait():
    STARTED.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        CANCELLED.set()
        raise
"""
CANCELS = [
    "async def predict(x: FP32[3]) -> FP32[3]:\n    await wait()\n",
    "async def predict(x: FP32[3]) -> AsyncIterator[FP32[3]]:\n    yield x\n    await wait()\n",
]


def _cancel_once(started: threading.Event, stream: ResponseStream) -> None:
    started.wait(20)
    stream.cancel()


def _answer(made: AnyExecutable, stream: ResponseStream) -> None:
    if isinstance(made, StreamingExecutable):
        list(made.stream({"x": ONES[0]}, context(stream=stream)))
    elif isinstance(made, Executable):
        made.execute({"x": ONES[0]}, [context(stream=stream)])


@pytest.mark.parametrize("text", CANCELS)
def test_a_cancelled_request_cancels_its_task(tmp_path: Path, text: str) -> None:
    """A model that awaits is interrupted there, whether it returns or yields."""
    source = write_model(tmp_path, WAITS + text)
    stream = ResponseStream()
    with executable(source) as made:
        module = next(m for n, m in sys.modules.items() if n.endswith(".model") and "_pens" in n)
        started, cancelled = vars(module)["STARTED"], vars(module)["CANCELLED"]
        canceller = threading.Thread(target=_cancel_once, args=(started, stream))
        canceller.start()

        with pytest.raises(Cancelled):
            _answer(made, stream)
        canceller.join()

        assert cancelled.is_set()


def test_an_abandoned_async_generator_is_closed(tmp_path: Path) -> None:
    """Closing the stream ends the generator's task before the next request."""
    text = """
    import threading
    CLOSED = threading.Event()
    async def predict(x: FP32[3]) -> AsyncIterator[FP32[3]]:
        try:
            while True:
                yield x
        finally:
            CLOSED.set()
    """
    with executable(write_model(tmp_path, text)) as made:
        module = next(m for n, m in sys.modules.items() if n.endswith(".model") and "_pens" in n)
        stream = cast(StreamingExecutable, made).stream({"x": ONES[0]}, context())
        next(iter(stream))

        stream.close()  # type: ignore[attr-defined]

        assert vars(module)["CLOSED"].is_set()
