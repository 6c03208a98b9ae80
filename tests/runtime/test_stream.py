"""Laws of the response stream: one terminal event, one wake-up of the loop, nothing lost."""

import asyncio
import threading
import weakref
from functools import partial
from typing import Any

import pytest

from penstock_runtime.errors import Cancelled, Internal, Unavailable
from penstock_runtime.loop_inbox import LoopInbox, hold_news, release_news
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import UNSENT_LIMIT, ResponseStream, ThreadInbox


def answer(final: bool = True, id_: str = "") -> InferResponse:
    """A response without outputs."""
    return InferResponse("m", "1", id_, final=final)


def test_a_stream_of_one_gives_its_one_response() -> None:
    """A unary call is a stream of one."""

    async def main() -> InferResponse:
        stream = ResponseStream(LoopInbox(asyncio.get_running_loop()))
        threading.Thread(target=stream.put, args=(answer(id_="a"),)).start()
        return await stream.single()

    assert asyncio.run(main()).id == "a"


def test_everything_put_from_other_threads_arrives_in_order() -> None:
    """A consumer that is faster or slower than its producer gets every response, in order."""

    async def main() -> list[str]:
        stream = ResponseStream(LoopInbox(asyncio.get_running_loop()))

        def produce() -> None:
            for number in range(500):
                stream.put(answer(number == 499, str(number)))

        threading.Thread(target=produce).start()
        return [response.id async for response in stream]

    assert asyncio.run(main()) == [str(number) for number in range(500)]


def test_only_the_first_terminal_event_counts() -> None:
    """After a final response, an error or a close, nothing else can be put."""
    stream = ResponseStream()

    assert stream.put(answer())
    assert not stream.fail(Unavailable("late"))
    assert not stream.close()
    assert not stream.put(answer())
    assert len(stream.collect()) == 1


def test_an_error_is_raised_after_the_responses_before_it() -> None:
    """Responses that came before the error are still delivered."""
    stream = ResponseStream()
    stream.put(answer(final=False))
    stream.fail(Unavailable("gone"))

    first = stream.pop()

    assert first is not None
    with pytest.raises(Unavailable, match="gone"):
        stream.pop()


@pytest.mark.parametrize("count", [0, 2])
def test_a_unary_caller_gets_exactly_one_response_or_an_error(count: int) -> None:
    """None or several responses to a unary call are an INTERNAL error that says how many."""

    async def main() -> None:
        stream = ResponseStream(LoopInbox(asyncio.get_running_loop()))
        for _ in range(count):
            stream.put(answer(final=False))
        stream.close()
        await stream.single()

    with pytest.raises(Internal, match=f"expected a single response, got {count}"):
        asyncio.run(main())


def test_cancelling_tells_the_producer_once_and_frees_the_consumer() -> None:
    """The producer's callback runs once, early or late; the consumer gets CANCELLED."""
    stream, told = ResponseStream(), []
    stream.on_cancel(lambda: told.append(1))

    stream.cancel()
    stream.cancel()

    assert told == [1]
    assert not stream.put(answer())
    with pytest.raises(Cancelled):
        stream.pop()


def test_a_callback_that_comes_after_the_cancel_is_still_called() -> None:
    """Whoever registers too late is told at once."""
    stream, told = ResponseStream(), []
    stream.cancel()

    stream.on_cancel(lambda: told.append(1))

    assert told == [1]


def test_a_producer_waits_while_too_much_is_unsent() -> None:
    """With the limit reached a producer waits, and is woken once half of it has been taken."""
    stream = ResponseStream()
    for _ in range(UNSENT_LIMIT):
        stream.put(answer(final=False))

    full = stream.wait_for_room(0)
    freed = threading.Thread(target=stream.wait_for_room, args=(30,))
    freed.start()
    for _ in range(UNSENT_LIMIT // 2):
        stream.pop()
    freed.join(30)

    assert not full
    assert not freed.is_alive()


def test_many_streams_wake_their_loop_once() -> None:
    """However many streams a batch answers, the loop is scheduled once."""
    calls = []

    class CountingLoop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(  # type: ignore[override]
            self, callback: Any, *args: Any, context: Any = None
        ) -> asyncio.Handle:
            calls.append(callback)
            return super().call_soon_threadsafe(callback, *args, context=context)

    async def main() -> int:
        inbox = LoopInbox(asyncio.get_running_loop())
        streams = [ResponseStream(inbox) for _ in range(64)]
        waiting = [asyncio.ensure_future(stream.single()) for stream in streams]
        await asyncio.sleep(0)
        before = len(calls)
        for stream in streams:
            stream.put(answer())
        await asyncio.gather(*waiting)
        return len(calls) - before

    loop = CountingLoop()
    try:
        woken = loop.run_until_complete(main())
    finally:
        loop.close()

    assert woken == 1


def test_held_news_reach_their_consumers_when_released() -> None:
    """Nothing wakes while a thread holds its news; nothing of it is lost."""
    stream = ResponseStream()
    inbox = stream.inbox
    assert isinstance(inbox, ThreadInbox)

    hold_news()
    stream.put(answer())
    release_news(held_for_ns=10**18)
    held = inbox.event.is_set()
    release_news()

    assert not held
    assert inbox.event.is_set()
    assert len(stream.collect()) == 1


def test_what_a_turn_of_the_loop_submits_is_handed_over_together() -> None:
    """Callbacks asked for on the loop run after its turn, in order; from elsewhere at once."""

    async def main() -> tuple[list[int], list[int], list[int]]:
        inbox, rung = LoopInbox(asyncio.get_running_loop()), list[int]()
        inbox.soon(partial(rung.append, 1))
        inbox.soon(partial(rung.append, 2))
        during = list(rung)
        await asyncio.sleep(0)
        after = list(rung)
        await asyncio.to_thread(inbox.soon, partial(rung.append, 3))
        return during, after, list(rung)

    assert asyncio.run(main()) == ([], [1, 2], [1, 2, 3])


@pytest.mark.asyncio
async def test_a_consumer_that_fails_leaves_the_others_awake() -> None:
    """The loop is told of it, and those behind it are looked at in the same turn."""

    class Broken(ResponseStream):
        def wake(self) -> None:
            raise RuntimeError("a defect")

    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    inbox = LoopInbox(loop)
    broken, sound = Broken(inbox), ResponseStream(inbox)
    waiting = asyncio.ensure_future(sound.next())
    await asyncio.sleep(0)

    broken.close()
    sound.close()

    assert await asyncio.wait_for(waiting, 10) is None
    assert [str(context["exception"]) for context in told] == ["a defect"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["put", "fail", "close"])
def test_a_stream_that_has_ended_holds_nothing_that_was_queued(how: str, late: bool) -> None:
    """What is queued knows its stream: if that knew it in turn, the bytes of both would be there
    until the next collection.
    """

    def cancel() -> None:
        """What would be told, if it had not ended."""

    held = weakref.ref(cancel)
    stream = ResponseStream()
    if not late:
        stream.on_cancel(cancel)
    if how == "put":
        stream.put(InferResponse("m", "1"))
    else:
        _ = stream.fail(Internal("broken")) if how == "fail" else stream.close()
    if late:
        stream.on_cancel(cancel)

    del cancel
    assert held() is None
