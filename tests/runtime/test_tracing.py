"""Which requests are traced, and what is noted of one."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.traces import Collected

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Status
from penstock_runtime.observability.span_context import SpanContext, caller_context, new_root
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_tensors import (
    MOST_TENSORS,
    QUEUE_INPUT,
    TensorBag,
    TracedTensor,
    text_of,
)
from penstock_runtime.observability.tracing import MOST_RESPONSES, RESPONSE, Sampler
from penstock_runtime.tensor import Tensor, pack_bytes

# -- sampling ------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(-1, 20), st.integers(0, 300))
def test_of_each_so_many_requests_the_last_is_traced_until_the_count_is_spent(
    rate: int, limit: int, asked: int
) -> None:
    """Exactly; and what is left is what was not spent."""
    sampler = Sampler(rate, limit)

    chosen = [number for number in range(1, asked + 1) if sampler.take()]

    due = list(range(rate, asked + 1, rate))
    expected = due if limit < 0 else due[:limit]
    assert chosen == expected
    assert sampler.left == (-1 if limit < 0 else limit - len(expected))


@given(st.integers(1, 20), st.integers(-1, 20), st.lists(st.integers(0, 60), max_size=10))
def test_many_requests_are_chosen_from_as_one_by_one(
    rate: int, limit: int, turns: list[int]
) -> None:
    """However they are gathered."""
    one, many = Sampler(rate, limit), Sampler(rate, limit)

    alone = [one.take() for _ in range(sum(turns))]
    together: list[bool] = []
    for number in turns:
        chosen = many.choose(number)
        together += [index in chosen for index in range(number)]

    assert together == alone
    assert one.left == many.left


def test_threads_that_ask_at_once_get_no_more_than_there_is() -> None:
    """One in ten, and seven at most, however many ask."""
    sampler, barrier = Sampler(10, 7), threading.Barrier(4)

    def ask(_: int) -> int:
        barrier.wait(10)
        return sum(sampler.take() for _ in range(1000))

    with ThreadPoolExecutor(4) as pool:
        chosen = sum(pool.map(ask, range(4)))

    assert (chosen, sampler.left) == (7, 0)


# -- the caller's context ------------------------------------------------------------------------


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_context_survives_the_wire(trace: int, span: int, sampled: bool) -> None:
    """What one writes the next reads."""
    context = SpanContext(f"{trace:032x}", f"{span:016x}", sampled, "a=1,b@c=x y")._replace(
        state="a=1,b@c=x"
    )

    headers = json.loads(context.carrier)

    assert caller_context(headers) == context
    child = context.child()
    assert (child.trace_id, child.state) == (context.trace_id, context.state)
    assert child.span_id != context.span_id


ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("traceparent", "known"),
    [
        (f"00-{ID}-{SPAN}-01", True),
        (f"cc-{ID}-{SPAN}-01-what-comes", True),
        (f"00-{ID}-{SPAN}-01-more", False),
        (f"ff-{ID}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{ID}-{'0' * 16}-01", False),
        (f"00-{ID.upper()}-{SPAN}-01", False),
        (f"00-{ID}-{SPAN}", False),
        (f"00-{ID}-{SPAN}-01\n", False),
        ("", False),
    ],
)
def test_what_w3c_does_not_allow_names_no_caller(traceparent: str, known: bool) -> None:
    """A caller that writes nonsense is as one that writes nothing."""
    assert (caller_context({"traceparent": traceparent}) is not None) is known


@given(st.text())
def test_any_text_is_read_without_harm(text: str) -> None:
    """Neither header can raise, and a state that is none is dropped."""
    caller_context({"traceparent": text})
    found = caller_context({"traceparent": f"00-{ID}-{SPAN}-00", "tracestate": text})

    assert found is not None
    assert not found.sampled
    assert found.state in ("", text)


def test_a_state_that_is_too_long_is_dropped() -> None:
    """512 characters are what W3C has everyone pass on."""
    long = "a=" + "b" * 511

    found = caller_context({"traceparent": f"00-{ID}-{SPAN}-01", "tracestate": long})

    assert found is not None
    assert not found.state


# -- one trace -----------------------------------------------------------------------------------


def test_only_the_first_end_counts() -> None:
    """A request that is cancelled and then answered is told of once."""
    collected = Collected()
    trace = collected.begin()

    trace.finish(5, Status.CANCELLED, "gone")
    trace.finish(9)

    assert collected.traces == [trace]
    assert (trace.end_ns, trace.status) == (5, Status.CANCELLED)


def test_timestamps_are_in_the_order_of_time() -> None:
    """Whatever was noted first."""
    trace = Collected().begin(start=10)
    trace.mark("B", 30)
    trace.mark("A", 20)
    trace.finish(40)

    assert trace.timestamps() == [
        ("REQUEST_START", 10),
        ("A", 20),
        ("B", 30),
        ("REQUEST_END", 40),
    ]


def test_a_child_knows_its_parent() -> None:
    """Ids of the file, span of the parent, and the clock that both share."""
    collected = Collected(spans=True)
    parent = collected.begin("outer", start=100)

    child = parent.child("inner", 150, "r")

    assert (child.id, child.parent_id) == (2, 1)
    assert child.parent == parent.context
    assert child.trace_id == parent.trace_id
    assert child.wall(150) == parent.wall(150)
    assert child.carrier is not None
    assert json.loads(child.carrier)["traceparent"].startswith(f"00-{parent.trace_id}-")


def test_a_trace_that_stays_in_the_process_tells_models_of_no_context() -> None:
    """As in Triton, whose models get None."""
    trace = Collected().begin()

    assert trace.carrier is None
    assert trace.trace_id == ""
    assert trace.child("x", 1).carrier is None


def test_the_responses_of_a_long_stream_are_counted_but_not_all_noted() -> None:
    """A trace is of a bounded size."""
    trace = Collected().begin()

    for number in range(MOST_RESPONSES + 10):
        trace.responded(number)

    assert trace.responses == MOST_RESPONSES + 10
    assert [name for name, _ in trace.marks] == [RESPONSE] * MOST_RESPONSES


def test_new_roots_differ() -> None:
    """And have ids that are none of zero."""
    roots = {new_root() for _ in range(100)}

    assert len(roots) == 100
    assert all(caller_context({"traceparent": root.traceparent}) == root for root in roots)


# -- tensors -------------------------------------------------------------------------------------


def tensor(array: object, datatype: DataType, name: str = "X") -> Tensor:
    values = np.asarray(array)
    return Tensor(name, datatype, values.shape, values)


@pytest.mark.parametrize(
    ("array", "datatype", "text"),
    [
        (np.array([[1, -2]], np.int32), DataType.INT32, "1,-2"),
        (np.array([1.5, 2], np.float32), DataType.FP32, "1.5,2.0"),
        (np.array([True, False]), DataType.BOOL, "1,0"),
        (np.array([0x3F80, 0xC000], np.uint16), DataType.BF16, "1.0,-2.0"),
        (np.array([b"a", b'"\xff'], object), DataType.BYTES, '"a","\\"\\xff"'),
        (np.array([], np.int8), DataType.INT8, ""),
    ],
)
def test_tensors_are_written_element_by_element(
    array: object, datatype: DataType, text: str
) -> None:
    """In the order of memory, whatever their datatype."""
    bag = TensorBag()

    bag.add(QUEUE_INPUT, (tensor(array, datatype),))

    assert text_of(bag.tensors[0]) == text


def test_a_tensor_is_copied_when_it_is_noted() -> None:
    """A model that uses its memory again does not change what was traced."""
    array = np.ones(3, np.int32)
    trace = Collected(Level.TENSORS).begin()
    trace.tensors(QUEUE_INPUT, (tensor(array, DataType.INT32),))

    array[:] = 9

    assert text_of(trace.bag.tensors[0]) == "1,1,1"


def test_without_the_level_no_tensor_is_touched() -> None:
    """TIMESTAMPS alone copies nothing."""
    trace = Collected(Level.TIMESTAMPS).begin()

    trace.tensors(QUEUE_INPUT, (tensor(np.ones(3, np.int32), DataType.INT32),))

    assert not trace.bag.tensors


def test_a_bag_has_a_bound() -> None:
    """What has no more room is cut, and says so; beyond a number of tensors nothing is kept."""
    bag = TensorBag(most_bytes=10)

    bag.add(QUEUE_INPUT, [tensor(np.ones(2, np.int32), DataType.INT32)] * (MOST_TENSORS + 5))

    assert bag.size == 10
    assert len(bag.tensors) == MOST_TENSORS
    assert [t.cut for t in bag.tensors[:3]] == [False, True, True]
    assert [text_of(t) for t in bag.tensors[:3]] == ["1,1", "", ""]


def test_a_tensor_that_is_not_whole_is_no_failure() -> None:
    """What is traced is what came, before anyone has looked at it."""
    bag = TensorBag()
    wrong = Tensor("X", DataType.FP32, (2,), object())
    short = Tensor("Y", DataType.INT32, (2,), b"\1\0\0\0\7")

    bag.add(QUEUE_INPUT, (wrong, short))

    assert [text_of(t) for t in bag.tensors] == ["", "1"]
    cut = pack_bytes(np.array([b"abc", b"defg"], object))[:-1]
    assert text_of(TracedTensor("A", "Z", DataType.BYTES, (2,), cut)) == '"abc"'
