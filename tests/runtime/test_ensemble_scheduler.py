"""Laws of requests to an ensemble whose steps' models are fakes at the seam of the dispatch."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.ensembles import (
    INT,
    Asked,
    FakeServing,
    Part,
    Served,
    Whole,
    decoupled_wholes,
    expected,
    number,
    numbers,
    plain_wholes,
)
from tests.runtime.traces import Collected

from penstock_runtime import errors
from penstock_runtime.config import ModelOutput, TransactionPolicy
from penstock_runtime.errors import (
    Cancelled,
    FailedPrecondition,
    FailureReason,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.loop_inbox import hold_news, release_news
from penstock_runtime.request import InferRequest, InferResponse, RequestedOutput, Timing
from penstock_runtime.scheduling import ensemble_scheduler, ensemble_step
from penstock_runtime.scheduling.base import Retired
from penstock_runtime.scheduling.ensemble_step import StepStream
from penstock_runtime.stream import ResponseStream

VALUES = {"in0": 3, "in1": 10, "in2": 21}
CHAIN = Whole(("in0",), ("out",), (Part(("in0",), ("mid",)), Part(("mid",), ("out",))))
BRANCHES = Whole(
    ("in0",),
    ("out",),
    (Part(("in0",), ("a",)), Part(("in0",), ("b",)), Part(("a", "b"), ("out",))),
)
STREAM = Whole(("in0",), ("out",), (Part(("in0",), ("mid",), 9), Part(("mid",), ("out",))))


def calculators(whole: Whole, do: Callable[[Callable[[], None]], Any]) -> Callable[[Asked], None]:
    """Models that answer as the parts of the whole do; `do` says where."""

    def act(asked: Asked) -> None:
        part = whole.parts[int(asked.model.config.name.removeprefix("m"))]
        do(lambda: asked.compute(part))

    return act


@settings(max_examples=40)
@given(st.one_of(plain_wholes(), decoupled_wholes()), st.integers(0, 99), st.booleans())
def test_many_requests_in_many_threads_get_what_the_graph_says(
    whole: Whole, seed: int, at_once: bool
) -> None:
    """Each is answered and counted once, whether steps answer at once, or from other threads."""
    with ThreadPoolExecutor(3) as pool:
        random = Random(seed)

        def do(work: Callable[[], None]) -> None:
            if at_once or random.random() < 0.2:
                work()
            else:
                pool.submit(work)

        served = Served(whole, calculators(whole, do))

        streams = [served.ask() for _ in range(4)]
        answers = [numbers(stream) for stream in streams]

        assert served.model.drain(10)
    assert answers[1:] == answers[:-1]
    if all(part.times is None for part in whole.parts):
        assert answers[0] == expected(whole, VALUES)
    assert served.counts == (4, 0, 0)


def test_a_step_goes_on_with_a_sequence_of_a_version_that_is_out_of_service() -> None:
    """As a request to that model itself does: the sequence has its END there."""
    served = Served(CHAIN)
    retired = served.models.pop("m1")
    served.dispatch.bind(served.find, lambda request: retired if request.correlation_id else None)

    stream = served.ask(correlation_id=7)
    served.next("m0").answer(1)
    retired.asked.pop(0).answer(2)

    assert numbers(stream) == [{"out": 2}]
    other = served.ask()
    served.next("m0").answer(1)
    with pytest.raises(Unavailable, match="m1"):
        other.collect()


def test_a_step_is_asked_all_that_the_caller_said() -> None:
    """With its own tensors, for the outputs that are used."""
    part = Part(("mid",), ("out", "idle"))
    served = Served(Whole(("in0",), ("out",), (CHAIN.parts[0], part)))
    said: dict[str, Any] = {
        "id": "a",
        "parameters": {"key": "value"},
        "headers": {"x": "y"},
        "deadline_ns": 1 << 62,
        "priority": 2,
        "timeout_us": 5,
        "correlation_id": "s",
        "sequence_start": True,
        "sequence_end": True,
        "received_ns": 7,
    }
    served.ask(**said)
    served.next("m0").answer(4)

    asked = served.next("m1").request

    assert {name: getattr(asked, name) for name in said} == said
    assert (asked.model_name, asked.model_version) == ("m1", "")
    assert asked.outputs == (RequestedOutput("O0"),)
    assert [(t.name, int(t.array[0])) for t in asked.inputs] == [("I0", 4)]
    assert asked.depth == 1


def test_arrays_are_handed_over_as_they_are_and_cannot_be_written_to() -> None:
    """From step to step, and to the caller."""
    served = Served(CHAIN)
    given_ = number("in0", 3)
    stream = ResponseStream()
    served.model.submit(InferRequest("e", (given_,)), stream)
    made = [np.array([4]), np.array([5])]

    first = served.next("m0")
    first.stream.put(InferResponse("m0", "1", outputs=(_tensor(made[0]),)))
    second = served.next("m1")
    second.stream.put(InferResponse("m1", "1", outputs=(_tensor(made[1]),)))

    first_input = first.request.inputs[0].array
    handed = second.request.inputs[0].array
    answered = stream.collect()[0].outputs[0].array
    assert np.shares_memory(first_input, given_.array)
    assert not first_input.flags.writeable
    assert np.shares_memory(handed, made[0])
    assert np.shares_memory(answered, made[1])
    assert not handed.flags.writeable
    assert made[0].flags.writeable


def _tensor(array: Any) -> Any:
    return number("O0", 0)._replace(array=array)


def test_a_torch_model_gets_a_copy_of_what_others_read_too() -> None:
    """It may work in place, and torch knows no memory that cannot be written to."""
    whole = Whole(
        ("in0",),
        ("a", "b", "c"),
        (
            Part(("in0",), ("a",)),
            Part(("a",), ("b",)),
            Part(("b",), ("mid",)),
            Part(("mid",), ("c",)),
        ),
    )
    models = [replace(model, backend="pytorch") for model in whole.composing]
    object.__setattr__(whole, "composing", tuple(models))
    served = Served(whole)
    made = [np.array([value]) for value in range(4)]
    served.ask()

    handed = []
    for index, array in enumerate(made):
        asked = served.next(f"m{index}")
        handed.append(asked.request.inputs[0].array)
        asked.stream.put(InferResponse("m", "1", outputs=(_tensor(array),)))

    # a and b are outputs too; mid may be the memory of b.
    shared = [np.shares_memory(one, other) for one, other in zip(handed[1:], made, strict=False)]
    assert shared == [False, False, False]
    assert handed[3].flags.writeable


def test_an_error_of_a_step_is_the_answer_and_the_other_steps_are_cancelled() -> None:
    """Once, of the same kind, with the step's name; what comes later is nobody's."""
    served = Served(BRANCHES)
    stream = served.ask()
    one, other = served.next("m0"), served.next("m1")
    cancelled: list[str] = []
    other.stream.on_cancel(lambda: cancelled.append("m1"))
    refusal = InvalidArgument(
        "too large", reason="SIZE", failure=FailureReason.REJECTED, retry_after_ns=5
    )

    one.stream.fail(refusal)
    late = other.answer(1)

    with pytest.raises(InvalidArgument) as failed:
        stream.collect()
    assert failed.value.message == "in ensemble 'e', step 0 'm0': too large"
    assert (failed.value.reason, failed.value.retry_after_ns) == ("SIZE", 5)
    assert failed.value.scheduled
    assert cancelled == ["m1"]
    assert not late
    assert served.models["m2"].asked == []
    assert served.counts == (0, 1, 0)
    assert served.statistics.snapshot().failures[FailureReason.REJECTED] == 1


@pytest.mark.parametrize(
    "kind",
    [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, PenstockError)],
)
def test_every_kind_of_error_keeps_its_status(kind: type[PenstockError]) -> None:
    """A step's refusal is told as what it is."""
    served = Served(CHAIN)
    stream = served.ask()

    served.next("m0").stream.fail(kind("no"))

    with pytest.raises(kind, match="in ensemble 'e', step 0 'm0': no"):
        stream.collect()


def test_a_step_that_refuses_at_once_fails_the_request() -> None:
    """As one that fails later, and its retirement is not taken for the ensemble's own."""

    def refuse(asked: Asked) -> None:
        raise Retired("gone")

    served = Served(CHAIN, refuse)
    stream = served.ask()

    with pytest.raises(Unavailable, match="step 0 'm0': gone") as failed:
        stream.collect()
    assert not isinstance(failed.value, Retired)
    # The dispatch has looked for what replaces it.
    assert len(served.models["m0"].asked) == 5
    assert served.counts == (0, 1, 0)


def test_a_model_that_is_not_there_makes_the_ensemble_unavailable() -> None:
    """NOT_FOUND would say that the ensemble is not there."""
    served = Served(CHAIN)
    del served.models["m1"]
    stream = served.ask()

    served.next("m0").answer(1)

    with pytest.raises(Unavailable, match="step 1 'm1': Request for unknown model: 'm1'"):
        stream.collect()


def test_a_caller_that_gives_up_gives_up_the_steps() -> None:
    """Those under way are told, no other is started, and it is counted as cancelled, once."""
    served = Served(BRANCHES)
    stream = served.ask()
    one, other = served.next("m0"), served.next("m1")
    one.answer(1)

    stream.cancel()
    other.answer(2)

    assert other.stream.cancelled
    assert served.models["m2"].asked == []
    assert served.counts == (0, 1, 0)
    assert served.statistics.snapshot().failures[FailureReason.CANCELED] == 1
    with pytest.raises(Cancelled):
        stream.collect()


def test_a_request_that_was_given_up_before_it_came_starts_nothing_that_lives() -> None:
    """Its steps are cancelled as soon as they are there."""
    served = Served(CHAIN)
    stream = ResponseStream()
    stream.cancel()

    served.ask(stream)

    assert served.next("m0").stream.cancelled
    assert served.counts == (0, 1, 0)


def test_a_model_that_answers_twice_or_never_is_told_of() -> None:
    """Where one response is expected."""
    served = Served(CHAIN)
    twice, never = served.ask(), served.ask()
    first, second = served.next("m0"), served.next("m0")

    first.answer(1, final=False)
    first.answer(1)
    second.stream.close()

    with pytest.raises(Internal, match="step 0 'm0': expected a single response, got 2"):
        twice.collect()
    with pytest.raises(Internal, match="step 0 'm0': expected a single response, got 0"):
        never.collect()


def test_an_answer_that_is_not_what_the_ensemble_declares_is_told_of() -> None:
    """By the ensemble, like any model's."""
    served = Served(CHAIN)
    stream = served.ask()
    served.next("m0").answer(1)

    wide = number("O0", 1)._replace(shape=(2,), array=np.array([1, 2]))
    served.next("m1").stream.put(InferResponse("m1", "1", outputs=(wide,)))

    with pytest.raises(Internal, match=r"output 'out' of model 'e' has shape \[2\], expected"):
        stream.collect()
    assert served.counts == (0, 1, 0)


def test_the_timing_is_the_sum_of_the_steps() -> None:
    """In the response and in the statistics, where nothing waits in an ensemble itself."""
    served = Served(CHAIN)
    stream = served.ask()
    served.next("m0").answer(1, timing=Timing(1, 10, 100, 1000, 7, "m0_0"))
    served.next("m1").answer(1, timing=Timing(2, 20, 200, 2000, 9, "m1_0"))

    (response,) = stream.collect()

    found = served.statistics.snapshot()
    assert response.timing == Timing(3, 30, 300, 3000, 1)
    assert (found.queue.ns, found.compute_input.ns) == (0, 30)
    assert (found.compute_infer.ns, found.compute_output.ns) == (300, 3000)
    assert (found.inference_count, found.execution_count) == (1, 1)


def test_the_response_is_the_ensembles() -> None:
    """Its name and version, the caller's id, and the outputs that were asked for."""
    whole = Whole(("in0",), ("out", "more"), (Part(("in0",), ("out", "more")),))
    served = Served(whole)
    stream = served.ask(outputs=(RequestedOutput("more"),))

    asked = served.next("m0")
    asked.stream.put(InferResponse("m0", "7", outputs=(number("O1", 5),)))

    (response,) = stream.collect()
    assert (response.model_name, response.model_version, response.id) == ("e", "1", "r")
    assert [tensor.name for tensor in response.outputs] == ["more"]
    assert asked.request.outputs == (RequestedOutput("O1"),)


# -- decoupled -----------------------------------------------------------------------------------


def test_responses_go_out_in_the_order_of_what_they_were_made_of() -> None:
    """Whatever is done first; the last one is empty and says so, and each is counted."""
    served = Served(STREAM)
    stream = served.ask()
    many = served.next("m0")
    for value in range(3):
        many.answer(value, final=False)
    many.end()
    first, second, third = (served.next("m1") for _ in range(3))

    third.answer(30)
    early = stream.pop()
    second.answer(20)
    first.answer(10)

    responses = stream.collect()
    assert early is None
    assert [int(r.outputs[0].array[0]) for r in responses[:-1]] == [10, 20, 30]
    assert [(r.final, r.empty) for r in responses] == [(False, False)] * 3 + [(True, True)]
    assert {r.id for r in responses} == {"r"}
    told = served.statistics.snapshot().response_stats
    assert [told[key].success.count for key in ("0", "1", "2")] == [1, 1, 1]
    assert served.counts == (1, 0, 0)


def test_a_decoupled_step_that_says_nothing_ends_the_request() -> None:
    """With an empty last response."""
    served = Served(STREAM)
    stream = served.ask()

    served.next("m0").end()

    assert [(r.final, r.empty) for r in stream.collect()] == [(True, True)]
    assert served.counts == (1, 0, 0)


def test_an_error_after_some_responses_ends_the_stream_with_it() -> None:
    """What was answered before stays answered."""
    served = Served(STREAM)
    stream = served.ask()
    many = served.next("m0")
    many.answer(1, final=False)
    served.next("m1").answer(10)

    many.stream.fail(Internal("broke"))

    assert stream.pop() is not None
    with pytest.raises(Internal, match="step 0 'm0': broke"):
        stream.pop()
    assert served.counts == (0, 1, 0)


class Deaf(ResponseStream):
    """Cannot encode anything."""

    def put(self, response: InferResponse) -> bool:
        self.fail(Internal("cannot be encoded"))
        return False


def test_a_response_that_cannot_be_encoded_ends_the_request() -> None:
    """As a failure of the ensemble; the decoupled model is told to stop."""
    served = Served(STREAM)
    served.ask(Deaf())
    many = served.next("m0")
    many.answer(1, final=False)

    served.next("m1").answer(10)

    assert many.stream.cancelled
    assert served.counts == (0, 1, 0)


def test_no_more_than_max_inflight_requests_are_on_their_way_from_a_decoupled_step() -> None:
    """It is held back until one is done, and no step is executed more often at once."""
    served = Served(replace(STREAM, limit=2))
    served.ask()
    many = served.next("m0")

    many.answer(1, final=False)
    room_for_two = many.stream.wait_for_room(0)
    many.answer(2, final=False)
    none_left = many.stream.wait_for_room(0)
    many.answer(3, final=False)
    executed = len(served.models["m1"].asked)
    served.next("m1").answer(10)
    served.next("m1").answer(20)
    room_again = many.stream.wait_for_room(0)

    assert (room_for_two, none_left, room_again) == (True, False, True)
    assert executed == 2
    assert len(served.models["m1"].asked) == 1


def test_without_a_limit_there_is_one_all_the_same() -> None:
    """That of a stream which nobody reads."""
    served = Served(STREAM)
    served.ask()
    many = served.next("m0")

    sent = 0
    while many.stream.wait_for_room(0):
        many.answer(1, final=False)
        sent += 1

    assert sent == 256


@pytest.mark.parametrize("how", ["done", "cancelled", "failed"])
def test_a_producer_that_is_held_back_goes_on(how: str) -> None:
    """When a step after it is done, and when the request is over."""
    served = Served(replace(STREAM, limit=1))
    stream = served.ask()
    many = served.next("m0")
    many.answer(1, final=False)
    after = served.next("m1")
    let: list[bool] = []
    waiting = threading.Thread(target=lambda: let.append(many.stream.wait_for_room(0.001)))
    waiting.start()

    # Held back for as long as it takes, whatever the limit for slow readers.
    waiting.join(0.05)
    held = waiting.is_alive()
    if how == "done":
        after.answer(2)
    elif how == "cancelled":
        stream.cancel()
    else:
        after.stream.fail(Internal("no"))
    waiting.join(10)

    assert held
    assert let == [True]


def test_a_producer_gives_up_on_steps_that_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be that they wait for it: the request fails and says why."""
    monkeypatch.setattr(ensemble_step, "STALLED_S", 0.01)
    served = Served(replace(STREAM, limit=1))
    stream = served.ask()
    many = served.next("m0")
    many.answer(1, final=False)

    let = many.stream.wait_for_room(10)

    assert not let
    with pytest.raises(ResourceExhausted, match="step 0 'm0': the steps after it finished nothing"):
        stream.collect()
    assert many.stream.cancelled


def test_a_producer_is_held_back_by_a_caller_that_reads_nothing() -> None:
    """Its responses are done, but nobody takes them."""

    def act(asked: Asked) -> None:
        if asked.model.config.name == "m1":
            asked.answer(1)

    served = Served(STREAM, act)
    stream = served.ask()
    many = served.next("m0")
    sent = 0
    while many.stream.wait_for_room(0):
        many.answer(1, final=False)
        sent += 1

    for _ in range(200):
        stream.pop()

    assert sent == 256
    assert many.stream.wait_for_room(0)


def test_what_is_known_of_a_decoupled_step_does_not_grow_with_the_responses() -> None:
    """Nor with the decoupled steps that these start."""
    parts = (Part(("in0",), ("a",), 9), Part(("a",), ("b",), 9), Part(("b",), ("out",)))
    served = Served(Whole(("in0",), ("out",), parts))
    served.ask()
    first = served.next("m0")
    run = next(iter(served.scheduler._runs))

    for _ in range(50):
        first.answer(1, final=False)
        second = served.next("m1")
        second.answer(1, final=False)
        second.end()
        served.next("m2").answer(1)

    assert len(run._decoupled) == 1
    assert len(run._open) == 1
    assert run._progress._root.below == {1: []}


# -- reloads, bounds, life cycle -----------------------------------------------------------------


def test_a_step_is_found_anew_for_every_request() -> None:
    """A model that was loaded again serves, and the old one is not kept in memory."""
    served = Served(CHAIN)
    served.ask()
    old = served.models.pop("m0")
    served.models["m0"] = FakeServing(old.config)
    gone = weakref.ref(old)
    old.asked[0].stream.close()

    served.ask()
    old.asked.clear()
    del old

    assert len(served.models["m0"].asked) == 1
    assert gone() is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"output": (ModelOutput("other", INT, (1,)),)},
            "'O0' is no output of the model; change the ensemble and load it again",
        ),
        ({"output": (ModelOutput("O0", INT, (2,)),)}, "inconsistent shape"),
        ({"model_transaction_policy": TransactionPolicy(True)}, "it is decoupled now"),
    ],
)
def test_a_step_that_was_loaded_again_as_another_is_refused(
    fields: dict[str, Any], text: str
) -> None:
    """At the call, with what does not fit any more."""
    served = Served(CHAIN)
    served.models["m0"] = FakeServing(replace(CHAIN.composing[0], **fields))

    stream = served.ask()

    with pytest.raises(FailedPrecondition, match="was loaded again and does not fit") as failed:
        stream.collect()
    assert text in failed.value.message
    assert served.models["m0"].asked == []


def test_a_long_chain_of_steps_that_answer_at_once_needs_no_deep_stack() -> None:
    """As from a cache: the request is worked on in one place, not inside the step before."""
    names = [f"t{index}" for index in range(400)]
    parts = tuple(Part((a,), (b,)) for a, b in pairwise(names))
    whole = Whole((names[0],), (names[-1],), parts)
    depths: list[int] = []

    def act(asked: Asked) -> None:
        depths.append(len(_stack()))
        asked.answer(1)

    served = Served(whole, act)

    answers = numbers(served.ask())

    assert answers == [{names[-1]: 1}]
    assert max(depths) - min(depths) < 5


def _stack() -> list[object]:
    import inspect

    return inspect.stack(0)  # type: ignore[return-value]


def test_news_that_a_thread_holds_back_are_worked_on_when_it_tells_them() -> None:
    """A batch is answered as a whole before anything follows from it."""
    served = Served(CHAIN)
    streams = [served.ask(), served.ask()]

    hold_news()
    served.next("m0").answer(1)
    served.next("m0").answer(2)
    meanwhile = len(served.models["m1"].asked)
    release_news()

    assert meanwhile == 0
    assert len(served.models["m1"].asked) == 2
    assert not any(stream.ended for stream in streams)


def test_an_ensemble_that_is_too_deep_inside_others_is_refused() -> None:
    """It may be inside itself, which would never end."""
    served = Served(CHAIN)

    with pytest.raises(FailedPrecondition, match="inside 16 others"):
        served.ask(depth=16)
    served.ask(depth=15)

    assert served.counts == (0, 1, 1)


def test_so_many_requests_and_no_more_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused at once, as by a full queue."""
    monkeypatch.setattr(ensemble_scheduler, "MOST_INSIDE", 2)
    served = Served(CHAIN)
    served.ask()
    served.ask()

    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        served.ask()

    assert served.counts == (0, 1, 2)


def test_an_ensemble_drains_with_its_steps_still_serving() -> None:
    """What was accepted goes on to its end, and nothing new comes in."""
    served = Served(CHAIN)
    stream = served.ask()

    early = served.model.drain(0)
    with pytest.raises(Retired):
        served.ask()
    served.next("m0").answer(1)
    served.next("m1").answer(2)

    assert not early
    assert served.model.drain(10)
    assert numbers(stream) == [{"out": 2}]


def test_an_ensemble_that_stops_answers_what_is_under_way() -> None:
    """And lets go of the steps."""
    served = Served(CHAIN)
    stream = served.ask()

    served.model.stop()

    with pytest.raises(Unavailable, match="Server is stopping"):
        stream.collect()
    assert served.next("m0").stream.cancelled
    assert served.model.drain(0)
    assert served.model.queue_stats().requests == 0


def test_whatever_a_step_answers_with_is_of_its_own_request() -> None:
    """The stream of a step says which step it is, for the log."""
    served = Served(CHAIN)
    served.ask()

    stream = served.next("m0").stream

    assert isinstance(stream, StepStream)
    assert "step 0 'm0'" in repr(stream)
    assert "steps under way" in repr(stream.caller)
    assert "1 unanswered" in repr(served.scheduler)


def test_the_steps_of_a_traced_request_are_traced_as_its_children() -> None:
    """Each ends by itself, also one whose model is not there; those of others are not traced."""
    traced = Collected()
    served = Served(CHAIN)
    whole, broken = traced.begin("e"), traced.begin("e")
    done, failed = served.ask(trace=whole), served.ask(trace=broken)
    served.ask()

    served.next("m0").answer(1)
    served.next("m1").answer(2)
    numbers(done)
    del served.models["m1"]
    served.next("m0").answer(1)

    with pytest.raises(Unavailable):
        failed.collect()
    assert served.next("m0").request.trace is None
    ended = [(t.model_name, t.parent_id, t.status) for t in traced.traces]
    assert ended == [
        ("m0", whole.id, None),
        ("m1", whole.id, None),
        ("m0", broken.id, None),
        ("m1", broken.id, errors.Status.UNAVAILABLE),
    ]
