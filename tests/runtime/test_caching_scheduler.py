"""Laws of the response cache in front of a model, with real threads: what is answered from it, what
never is, and that each request is counted once.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.cached_models import (
    MIB,
    PLAIN,
    ROW,
    Held,
    ask,
    busy,
    counts,
    start,
    values,
)
from tests.runtime.fakes import FakeLoaded, config, request

from penstock_runtime.backends.base import Arrays, Placement
from penstock_runtime.config import ResponseCache as ResponseCacheSetting
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.context import RequestContext
from penstock_runtime.request import InferResponse, RequestedOutput
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.starting import cache_of
from penstock_runtime.stream import ResponseStream


@pytest.fixture
def held() -> Iterator[Held]:
    """A model that waits; let go at the end whatever happens."""
    made = Held()
    yield made
    made.go.set()


def test_a_model_has_the_cache_only_if_it_asks_and_there_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that asks in vain is served all the same, and the log says so."""
    asks = replace(PLAIN, response_cache=ResponseCacheSetting(enable=True))
    cache = ResponseCache(MIB)

    assert cache_of(asks, cache) is cache
    assert cache_of(PLAIN, cache) is None
    assert cache_of(replace(PLAIN, response_cache=ResponseCacheSetting()), cache) is None
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert cache_of(asks, None) is None
    assert "--cache-config=local,size=BYTES" in caplog.text


def test_the_second_equal_request_is_answered_without_an_execution(held: Held) -> None:
    """With its own id, and a success of its own."""
    model = start(held)
    held.go.set()
    first = ask(model, id_="a").collect()[0]

    second = ask(model, id_="b").collect()[0]

    assert (first.id, second.id) == ("a", "b")
    assert second.outputs[0].numpy().tolist() == [2.0, 4.0]
    assert second.timing is not None
    assert second.timing.cache_hit
    assert counts(model) == (2, 0, 1, 1, 1)
    assert model.statistics.snapshot().inference_count == 1
    model.stop()


def test_whatever_the_model_can_see_makes_another_request(held: Held) -> None:
    """Values, shape, outputs asked for, parameters and headers; a batched input of more rows."""
    model = start(held, model_config=config(max_batch=4, dims=(-1,)))
    held.go.set()
    one = request([[1.0, 2.0]])
    different = [
        one,
        request([[1.0, 3.0]]),
        request([[1.0], [2.0]]),
        one._replace(outputs=(RequestedOutput("Y"),)),
        one._replace(parameters={"k": 1}),
        one._replace(parameters={"k": True}),
        one._replace(headers={"k": "1"}),
    ]

    for each in [*different, *different]:
        stream = ResponseStream()
        model.submit(each, stream)
        expected = (each.inputs[0].numpy() * 2).ravel().tolist()
        assert values(stream) == expected

    assert counts(model)[3:] == (len(different), len(different))
    model.stop()


def test_sequences_parameters_of_outputs_and_large_inputs_are_executed(held: Held) -> None:
    """What the cache cannot answer passes it by, uncounted."""
    model = start(held, model_config=config(max_batch=0, dims=(-1,)))
    held.go.set()
    one = request(ROW)
    asked = RequestedOutput("Y", {"classification": 1})
    apart = [
        one._replace(correlation_id=7),
        one._replace(sequence_start=True),
        one._replace(outputs=(asked,)),
        request(np.zeros(MIB + 1)),
    ]

    for each in [*apart, *apart]:
        stream = ResponseStream()
        model.submit(each, stream)
        stream.collect()

    assert counts(model) == (8, 0, 8, 0, 0)
    model.stop()


def test_a_reload_forgets(held: Held) -> None:
    """Another load of the same version shares nothing with the one before, which gives its room
    back when it stops.
    """
    cache = ResponseCache(MIB)
    held.go.set()
    old = start(held, cache)
    values(ask(old))
    new = start(lambda array: array * 3, cache)

    assert values(ask(new)) == [3.0, 6.0]
    assert values(ask(old)) == [2.0, 4.0]
    assert cache.stats().entries == 2
    old.drain(5)
    old.stop()
    assert cache.stats().entries == 1
    assert values(ask(new)) == [3.0, 6.0]
    assert counts(new) == (2, 0, 1, 1, 1)
    new.stop()


def test_what_a_model_does_with_its_arrays_later_changes_no_answer() -> None:
    """The buffer that it answers with may be used again."""
    buffer = np.zeros(2, np.float32)

    def function(array: Any) -> Any:
        buffer[:] = array
        return buffer

    model = start(function)
    for row in ((1.0, 2.0), (3.0, 4.0)):
        ask(model, row).collect()

    kept = ask(model, (1.0, 2.0)).collect()[0].outputs[0].numpy()

    assert kept.tolist() == [1.0, 2.0]
    assert not kept.flags.writeable
    assert counts(model)[3] == 1
    model.stop()


class SaysSomething(FakeLoaded):
    """A model that sets a parameter of its response."""

    def executable(self, placement: Placement) -> Any:
        executable = super().executable(placement)
        plain = executable.execute

        def execute(inputs: Arrays, contexts: Any) -> Arrays:
            for context in contexts:
                assert isinstance(context, RequestContext)
                context.response_parameters["who"] = context.id
            return plain(inputs, contexts)

        executable.execute = execute  # type: ignore[method-assign]
        return executable


def test_a_response_with_parameters_of_the_model_is_for_its_request_only(held: Held) -> None:
    """Neither kept nor given to those who wait."""
    model = start(SaysSomething(held))
    streams = [busy(model, held, id_="a"), ask(model, id_="b")]

    held.go.set()
    streams.append(ask(model, id_="c"))

    told = [stream.collect()[0].parameters["who"] for stream in streams]
    assert told == ["a", "b", "c"]
    assert counts(model) == (3, 0, 3, 0, 3)
    model.stop()


def test_rows_of_a_batch_are_kept_each_for_its_own_request(held: Held) -> None:
    """What was executed together is found apart."""
    model = start(held, model_config=config(batching=DynamicBatching()))
    streams = [busy(model, held, values=[[0.0, 0.0]])]
    streams += [ask(model, [[float(n), 1.0]]) for n in range(1, 6)]
    held.go.set()
    for stream in streams:
        stream.collect()

    again = [values(ask(model, [[float(n), 1.0]])) for n in range(1, 6)]

    assert again == [[2.0 * n, 2.0] for n in range(1, 6)]
    assert counts(model)[2:] == (2, 5, 6)
    model.stop()


def test_a_hit_does_not_overtake_where_the_order_is_kept(held: Held) -> None:
    """`preserve_ordering` holds for what the cache answers too."""
    rules = DynamicBatching(preserve_ordering=True)
    model = start(held, model_config=config(batching=rules))
    order: list[str] = []

    class Told(ResponseStream):
        def put(self, response: InferResponse) -> bool:
            order.append(response.id)
            return super().put(response)

    def put(row: float, id_: str) -> ResponseStream:
        stream = Told()
        model.submit(request([[row, 0.0]], id_=id_), stream)
        return stream

    held.go.set()
    put(1.0, "first").collect()
    held.go.clear()
    streams = [put(2.0, "slow"), put(1.0, "hit")]
    held.go.set()
    for stream in streams:
        stream.collect()

    assert order == ["first", "slow", "hit"]
    assert counts(model)[3:] == (1, 2)
    model.stop()
