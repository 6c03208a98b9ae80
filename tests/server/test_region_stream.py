"""Laws of the stream between a model and a caller who wants outputs in regions."""

import threading
from typing import Any

import numpy as np
import pytest
from tests.runtime.region_fakes import FakeSegment

from penstock.region_stream import RegionStream
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Cancelled, Internal, PenstockError, Unavailable
from penstock_runtime.memory.places import Place, PlacedResponse
from penstock_runtime.memory.shared import Kind, RegionTable, Registration, SegmentError
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import OneOutput, ResponseStream
from penstock_runtime.tensor import Tensor, object_array, tensor

ONES = np.ones(4, np.float32)
PLACE = Place("r", 16, 8)
KIND = OneOutput("m", "1", "Y", DataType.FP32)


class Held:
    """A stream whose output Y goes into a region of 64 bytes, which is unregistered at once."""

    def __init__(self, place: Place | None = PLACE, segment: FakeSegment | None = None) -> None:
        self.segment = segment or FakeSegment()
        self.table = RegionTable(1)
        made = Registration("r", Kind.SYSTEM, 64)
        self.table.register(made, lambda: self.segment)
        self.target = ResponseStream()
        self.given_back = 0
        uses = {} if place is None else {"Y": self.table.use(place)}
        self.stream = RegionStream(self.target, uses, self._give)
        self.table.unregister(Kind.SYSTEM)
        self.stream.follow()

    def _give(self) -> None:
        self.given_back += 1

    @property
    def bytes(self) -> bytes:
        """What is in the place."""
        return bytes(self.segment.data[8:24])


def response(*outputs: Tensor, final: bool = True) -> InferResponse:
    """A response; of Y if not said otherwise."""
    return InferResponse("m", "1", outputs=outputs or (tensor("Y", ONES),), final=final)


def error_of(stream: ResponseStream) -> PenstockError:
    """Why the request failed."""
    with pytest.raises(PenstockError) as raised:
        stream.pop()
    return raised.value


def test_an_output_is_in_its_region_before_it_is_told_of() -> None:
    """Told are the place and the size; the region is closed by then."""
    held = Held()

    assert held.stream.put(response(tensor("Z", ONES), tensor("Y", ONES)))

    told = held.target.pop()
    assert isinstance(told, PlacedResponse)
    assert told.outputs[1] == Tensor("Y", DataType.FP32, (4,), Place("r", 16, 8))
    assert told.outputs[0].array is ONES
    assert held.bytes == ONES.tobytes()
    assert held.segment.closed
    assert held.given_back == 1


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (tensor("Y", np.arange(8, dtype=np.int16)[::2]), b"\0\0\2\0\4\0\6\0"),
        (Tensor("Y", DataType.BYTES, (2,), object_array([b"ab", b""])), b"\2\0\0\0ab\0\0\0\0"),
        (Tensor("Y", DataType.BF16, (2,), np.array([1, 2], np.uint16)), b"\1\0\2\0"),
        (tensor("Y", np.array(True)), b"\1"),
        (Tensor("Y", DataType.FP32, (0, 4), np.zeros((0, 4), np.float32)), b""),
    ],
)
def test_an_output_is_written_as_a_message_would_have_it(output: Tensor, expected: bytes) -> None:
    """Row-major, without gaps; strings with their lengths; and the size says how much of it."""
    held = Held()

    held.stream.put(response(output))

    assert held.bytes.startswith(expected)
    told = held.target.pop()
    assert told is not None
    assert told.outputs[0].array.byte_size == len(expected)


def test_an_output_that_does_not_fit_is_an_error_and_nothing_is_written() -> None:
    """Neither of it, nor of the outputs beside it."""
    held = Held(Place("r", 15, 8))

    assert not held.stream.put(response())

    assert error_of(held.target).message == (
        "shared memory size specified with the request for output 'Y' (15 bytes) should be at "
        "least 16 bytes"
    )
    assert held.bytes == bytes(16)
    assert held.segment.closed
    assert held.given_back == 1


def test_an_array_that_does_not_fill_its_shape_is_an_error() -> None:
    """A client would read what was there before."""
    held = Held()

    held.stream.put(response(Tensor("Y", DataType.FP32, (4,), ONES[:2])))

    assert isinstance(error_of(held.target), Internal)


def test_memory_that_fails_is_an_error_of_the_request() -> None:
    """The model's thread goes on."""

    class Broken(FakeSegment):
        def write(self, offset: int, data: bytes | memoryview) -> None:
            raise SegmentError("full")

    held = Held(segment=Broken())

    assert not held.stream.put(response())

    assert error_of(held.target).message == "shared memory region 'r' cannot be written"
    assert held.segment.closed


def test_every_response_of_several_is_written_and_the_region_stays_open_between_them() -> None:
    """Each over the one before."""
    held = Held()
    found = []

    for value in (1, 2):
        held.stream.put(response(tensor("Y", ONES * value), final=False))
        found.append((held.bytes == (ONES * value).tobytes(), held.segment.closed))
    held.stream.put(InferResponse("m", "1", empty=True))

    assert found == [(True, False)] * 2
    assert held.segment.closed
    assert held.target.ended


def test_responses_after_an_error_are_told_to_nobody() -> None:
    """The request has had its last answer."""
    held = Held(Place("r", 3, 8))
    held.stream.put(response(final=False))

    assert not held.stream.put(response(tensor("Y", ONES[:0])))
    assert not held.stream.fail(Unavailable("late"))

    assert isinstance(error_of(held.target), Internal)
    assert held.given_back == 1


@pytest.mark.parametrize("end", ["fail", "close", "put_only"])
def test_any_last_answer_lets_go_once(end: str) -> None:
    """An error, an end without a response, the short way."""
    held = Held(None if end == "put_only" else Place("r", 16))

    for _ in range(2):
        if end == "fail":
            held.stream.fail(Unavailable("no"))
        elif end == "close":
            held.stream.close()
        else:
            held.stream.put_only(KIND, "i", ONES, None)

    assert held.stream.ended
    assert held.target.ended
    assert held.given_back == 1
    assert held.segment.closed


def test_the_short_way_is_taken_where_nothing_is_to_be_written() -> None:
    """And the careful one where something is."""
    plain, placed = Held(None), Held()

    for held in (plain, placed):
        held.stream.put_only(KIND, "i", ONES, None)

    first, second = plain.target.pop(), placed.target.pop()
    assert first is not None
    assert second is not None
    assert first.outputs[0].array is ONES
    assert second.outputs[0].array == Place("r", 16, 8)


def test_a_caller_that_gives_up_is_told_of_and_the_region_stays_until_the_last_answer() -> None:
    """The model may be at it: only when it is done is the region let go, and nothing is written."""
    held = Held()
    told = threading.Event()
    held.stream.on_cancel(told.set)

    held.target.cancel()
    held.target.cancel()
    open_yet = not held.segment.closed
    answered = held.stream.put(response())

    assert told.is_set()
    assert open_yet
    assert not answered
    assert held.bytes == bytes(16)
    assert held.segment.closed
    assert isinstance(error_of(held.target), Cancelled)


def test_a_caller_that_gave_up_before_the_request_was_queued_is_told_of_then() -> None:
    """Whoever comes later sees that nobody waits."""
    held = Held()
    held.target.cancel()
    told = threading.Event()

    held.stream.on_cancel(told.set)

    assert told.is_set()


def test_an_answered_request_keeps_nothing_of_what_was_queued() -> None:
    """Its inputs would live as long as the stream of its answer."""
    held = Held()
    held.stream.on_cancel(lambda: None)

    held.stream.put(response())
    held.stream.on_cancel(lambda: None)

    assert held.stream._on_cancel is None


def test_nobody_lets_go_while_another_writes() -> None:
    """An error from another thread waits for the write; the fake fails if it is closed under it."""
    entered, leave = threading.Event(), threading.Event()

    class Slow(FakeSegment):
        def write(self, offset: int, data: bytes | memoryview) -> None:
            entered.set()
            assert leave.wait(10)
            super().write(offset, data)

    held = Held(segment=Slow())
    results: list[Any] = []
    writer = threading.Thread(target=lambda: results.append(held.stream.put(response())))
    writer.start()
    entered.wait(10)
    failing = threading.Thread(target=lambda: held.stream.fail(Unavailable("no")))
    failing.start()
    open_yet = not held.segment.closed

    leave.set()
    writer.join()
    failing.join()

    assert open_yet
    assert len(results) == 1
    assert held.segment.closed
    assert held.given_back == 1
