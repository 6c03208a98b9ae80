"""Laws of streams that make one response of many."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock_runtime.errors import Internal, PenstockError, ResourceExhausted
from penstock_runtime.gathered_stream import WAYS, GatheredStream
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor, tensor

LAST = InferResponse("m", "1", empty=True)


def response(*values: Any, final: bool = False, **parameters: int) -> InferResponse:
    """One with an output."""
    array = np.array(values, np.float32)
    return InferResponse("m", "1", "id", (tensor("Y", array),), parameters, final)


def gathered(way: str, *responses: InferResponse, most: int = 1 << 20) -> list[InferResponse]:
    """What the caller gets of these."""
    target = ResponseStream()
    stream = GatheredStream(target, way, most)
    for one in responses:
        stream.put(one)
    assert stream.ended
    return target.collect(1)


@pytest.mark.parametrize(
    ("way", "values"), [("first", [1.0]), ("last", [4.0]), ("concat", [1.0, 2.0, 3.0, 4.0])]
)
@pytest.mark.parametrize("end", [LAST, None])
def test_each_way_makes_one_of_many(
    way: str, values: list[float], end: InferResponse | None
) -> None:
    """It is the last one; whether the end of the others is a response of its own or not."""
    rest = [response(4, final=end is None, b=2)]
    (found,) = gathered(way, response(1, a=1), response(2, 3), *rest, *[end] if end else [])

    assert found.outputs[0].numpy().tolist() == values
    assert found.outputs[0].shape == (len(values),)
    assert found.final
    parameters = {"first": {"a": 1}, "last": {"b": 2}, "concat": {"a": 1, "b": 2}}
    assert found.parameters == parameters[way]


@pytest.mark.parametrize("way", WAYS)
def test_without_a_response_there_is_none(way: str) -> None:
    """As for a model that should have given one; an error is the caller's."""
    with pytest.raises(Internal, match="expected a single response, got 0"):
        gathered(way, LAST)
    target = ResponseStream()
    assert GatheredStream(target, way).fail(Internal("broken"))
    with pytest.raises(Internal, match="broken"):
        target.collect(1)


def test_who_has_the_first_gives_up_the_rest() -> None:
    """The model is told, whenever it asks, and nothing more is taken from it."""
    told: list[str] = []
    stream = GatheredStream(ResponseStream(), "first")
    stream.on_cancel(lambda: told.append("at once"))

    assert stream.put(response(1))
    stream.on_cancel(lambda: told.append("late"))

    assert stream.cancelled
    assert told == ["at once", "late"]
    assert not stream.put(response(2))
    assert not stream.fail(Internal("broken"))


@pytest.mark.parametrize("way", ["last", "concat"])
def test_a_model_may_write_its_responses_in_one_place(way: str) -> None:
    """What is kept is a copy."""
    target = ResponseStream()
    stream = GatheredStream(target, way)
    place = np.array([1.0], np.float32)
    stream.put(InferResponse("m", "1", "", (tensor("Y", place),), final=False))
    place += 1
    stream.put(InferResponse("m", "1", "", (tensor("Y", place),), final=False))
    place += 1
    stream.close()

    (found,) = target.collect(1)
    assert found.outputs[0].numpy().tolist() == {"last": [2.0], "concat": [1.0, 2.0]}[way]


def _shape(shape: tuple[int, ...]) -> InferResponse:
    return InferResponse("m", "1", "", (tensor("Y", np.zeros(shape, np.float32)),), final=False)


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (lambda: _shape((1, 3)), r"output 'Y' is FP32\[1,2\] in one, FP32\[1,3\] in another"),
        (
            lambda: _shape((1, 2))._replace(outputs=(tensor("Y", np.zeros((1, 2))),)),
            r"FP32\[1,2\] in one, FP64\[1,2\] in another",
        ),
        (lambda: _shape((1, 2))._replace(outputs=()), r"one has outputs \['Y'\], another \[\]"),
    ],
)
def test_what_does_not_fit_together_is_said(second: Callable[[], InferResponse], text: str) -> None:
    """By name, with what it was."""
    with pytest.raises(Internal, match=text):
        gathered("concat", _shape((1, 2)), second(), LAST)


def test_numbers_without_a_dimension_cannot_follow_each_other() -> None:
    """Nothing says along what."""
    with pytest.raises(Internal, match="has no dimension"):
        gathered("concat", _shape(()), _shape(()), LAST)


def test_what_is_kept_is_bounded() -> None:
    """By the bytes of all that waits, which for the last is one; the model is told."""
    many = [response(*range(10)) for _ in range(5)]

    assert len(gathered("last", *many, LAST, most=100)) == 1
    with pytest.raises(ResourceExhausted, match="hold 120 bytes together, expected at most 100"):
        gathered("concat", *many, most=100)


def test_a_response_that_cannot_be_kept_is_an_error() -> None:
    """Whatever the array does."""

    class Broken:
        def __array__(self, *_: object) -> None:
            raise ValueError("no")

    outputs = (Tensor("Y", response(1).outputs[0].datatype, (1,), Broken()),)
    with pytest.raises(PenstockError, match="could not be kept"):
        gathered("concat", response(1)._replace(outputs=outputs))
