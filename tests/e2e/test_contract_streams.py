"""Rules of streams, as the messages on the wire show them, and what statistics say of responses."""

from collections.abc import Iterator
from queue import Queue
from typing import Any, Self

import grpc
import numpy as np
import pytest
from tests.e2e.asking import samples, stub_of, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2

CODE = """
import threading
from collections.abc import Iterator

import numpy as np

from penstock import FP32, Context, model

gate = threading.Event()
cancelled = threading.Event()


@model
def count(X: FP32[1], context: Context) -> Iterator[FP32[1].named("Y")]:
    for number in range(abs(int(X[0]))):
        yield np.array([number], np.float32)
        while X[0] < 0 and not gate.is_set() and not context.cancelled:
            gate.wait(0.01)
        if context.cancelled:
            cancelled.set()
            return
"""
SLOW = """
import threading

from penstock import FP32, model

gate = threading.Event()


@model
def slow(X: FP32[1]) -> FP32[1].named("Y"):
    if X[0] < 0:
        gate.wait(20)
    return X
"""
FAST = SLOW.replace("slow", "fast")


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A decoupled model and two ordinary ones, which are held if asked with negative numbers."""
    root = tmp_path_factory.mktemp("models")
    write(root, "count", CODE, "instance_group { count: 3 kind: KIND_CPU }")
    write(root, "slow", SLOW)
    write(root, "fast", FAST)
    with ServerThread(options([root], transport=request.param)) as made:
        yield made


def inside(running: Running, model: str) -> Any:
    """The names in the model's own module."""
    served = running.server.core.model(model)
    return served._loaded._target.__globals__  # type: ignore[attr-defined]


def asking(model: str, value: float, name: str = "", empty: bool = False) -> Any:
    """A request."""
    made = service_pb2.ModelInferRequest(model_name=model, id=name)
    made.inputs.add(name="X", datatype="FP32", shape=[1])
    made.raw_input_contents.append(np.float32(value).tobytes())
    if empty:
        made.parameters["triton_enable_empty_final_response"].bool_param = True
    return made


class Stream:
    """A stream that is open until `half_close`."""

    def __init__(self, running: Running, *metadata: tuple[str, str]) -> None:
        self._requests: Queue[Any] = Queue()
        self._open = stub_of(running)
        self.call = self._open.__enter__().ModelStreamInfer(
            iter(self._requests.get, None), metadata=metadata, timeout=20
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.half_close()
        self._open.__exit__(None, None, None)

    def send(self, *requests: Any) -> None:
        """Requests, one after the other."""
        for request in requests:
            self._requests.put(request)

    def half_close(self) -> None:
        """Nothing more will be sent."""
        self._requests.put(None)

    def next(self) -> tuple[str, float | None, bool | None]:
        """Id, value and final flag of the next response."""
        message = next(self.call)
        assert not message.error_message
        response = message.infer_response
        flag = response.parameters.get("triton_final_response")
        raw = response.raw_output_contents
        value = np.frombuffer(raw[0], np.float32)[0] if raw else None
        return response.id, value, None if flag is None else flag.bool_param


def test_requests_of_several_models_share_a_stream(running: Running) -> None:
    """Ordinary and decoupled ones; half-close finishes all that was sent, and the end is OK."""
    with Stream(running) as stream:
        stream.send(asking("slow", 1, "a"), asking("count", 2, "b"), asking("fast", 3, "c"))
        stream.half_close()
        found = sorted(stream.next()[:2] for _ in range(4))

        assert found == [("a", 1), ("b", 0), ("b", 1), ("c", 3)]
        with pytest.raises(StopIteration):
            stream.next()
        assert stream.call.code() is grpc.StatusCode.OK


def test_a_slow_request_holds_back_later_ones_of_ordinary_models(running: Running) -> None:
    """Responses leave in the order of requests, whatever model they are for."""
    gate = inside(running, "slow")["gate"]
    gate.clear()
    with Stream(running) as stream:
        stream.send(asking("slow", -1, "first"))
        stream.send(*(asking("fast", number, str(number)) for number in range(3)))
        counted = 'nv_inference_count{model="fast",version="1"}'
        before = samples(running)[counted]
        eventually(lambda: samples(running)[counted] >= before, "the others are executed")
        gate.set()

        assert [stream.next()[0] for _ in range(4)] == ["first", "0", "1", "2"]


def test_a_stream_may_be_out_of_order(running: Running) -> None:
    """Where its metadata says so: each answer leaves when it is there, by the id of its request,
    which a request to an ordinary model then needs.
    """
    gate = inside(running, "slow")["gate"]
    gate.clear()
    with Stream(running, ("penstock-unordered-stream", "true")) as stream:
        stream.send(asking("slow", -1, "first"))
        stream.send(*(asking("fast", number, str(number)) for number in range(3)))
        early = sorted(stream.next()[:2] for _ in range(3))
        stream.send(asking("fast", 1), asking("count", 1))
        refused, counted = next(stream.call), stream.next()
        gate.set()

        assert early == [("0", 0), ("1", 1), ("2", 2)]
        assert "out of order needs an id, got none" in refused.error_message
        assert counted[:2] == ("", 0)
        assert stream.next()[:2] == ("first", -1)


@pytest.mark.parametrize(("way", "values"), [("first", [0]), ("last", [2]), ("concat", [0, 1, 2])])
def test_a_unary_call_takes_what_it_asks_for_of_a_decoupled_model(
    running: Running, way: str, values: list[float]
) -> None:
    """One response of all."""
    request = asking("count", 3, "u")
    request.parameters["penstock_responses"].string_param = way
    with stub_of(running) as stub:
        response = stub.ModelInfer(request, timeout=20)

    assert response.id == "u"
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == values
    assert list(response.outputs[0].shape) == [len(values)]


def test_who_takes_the_first_response_stops_the_model(running: Running) -> None:
    """As if the caller had gone after it."""
    names = inside(running, "count")
    names["gate"].clear()
    names["cancelled"].clear()
    request = asking("count", -3)
    request.parameters["penstock_responses"].string_param = "first"
    with stub_of(running) as stub:
        response = stub.ModelInfer(request, timeout=20)

    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [0]
    assert names["cancelled"].wait(20)


def test_a_way_to_take_responses_that_there_is_not_is_refused(running: Running) -> None:
    """As is a call of a decoupled model that names none."""
    request = asking("count", 3)
    codes = []
    for way in ("all", None):
        request.parameters.clear()
        if way:
            request.parameters["penstock_responses"].string_param = way
        with stub_of(running) as stub, pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request, timeout=20)
        codes.append((error.value.code().name, error.value.details()))

    assert codes[0][0] == "INVALID_ARGUMENT"
    assert "'penstock_responses' is 'all', expected one of first, last, concat" in codes[0][1]
    assert codes[1][0] == "UNIMPLEMENTED"


def test_responses_of_decoupled_requests_interleave(running: Running) -> None:
    """One that is held in its middle holds nobody back."""
    gate = inside(running, "count")["gate"]
    gate.clear()
    with Stream(running) as stream:
        stream.send(asking("count", -2, "held"))
        assert stream.next() == ("held", 0, False)
        stream.send(asking("count", 2, "free"))
        assert [stream.next()[:2] for _ in range(2)] == [("free", 0), ("free", 1)]
        gate.set()

        assert stream.next()[:2] == ("held", 1)


def test_the_empty_last_response_comes_to_who_asked(running: Running) -> None:
    """Every response of a decoupled request says whether it is the last; without the wish a request
    ends in silence, with it by a message without outputs.
    """
    with Stream(running) as stream:
        stream.send(asking("count", 0, "silent"), asking("count", 1, "told", empty=True))
        found = [stream.next(), stream.next()]
        stream.half_close()

        assert found == [("told", 0, False), ("told", None, True)]
        with pytest.raises(StopIteration):
            stream.next()


def test_an_error_names_its_request_and_the_stream_goes_on(running: Running) -> None:
    """In `error_message`, with id, model and version in the response beside it, and a reason."""
    with Stream(running) as stream:
        stream.send(asking("nowhere", 1, "x"))
        message = next(stream.call)
        stream.send(asking("fast", 1, "y"))

        response = message.infer_response
        assert "unknown model: 'nowhere'" in message.error_message
        assert (response.id, response.model_name) == ("x", "nowhere")
        assert response.parameters["penstock_status"].string_param == "NOT_FOUND"
        assert stream.next()[:2] == ("y", 1)


def test_with_the_flag_the_first_error_is_the_end(running: Running) -> None:
    """`triton_grpc_error: true`; the status is that of a unary call."""
    with Stream(running, ("triton_grpc_error", "true")) as stream:
        stream.send(asking("fast", 1, "y"))
        assert stream.next()[:2] == ("y", 1)
        stream.send(asking("nowhere", 1, "x"))
        with pytest.raises(grpc.RpcError) as error:
            stream.next()

        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_cancelling_a_stream_cancels_all_that_is_in_it(running: Running) -> None:
    """The model sees it, and each request counts as cancelled."""
    names = inside(running, "count")
    names["gate"].clear()
    names["cancelled"].clear()
    counted = 'nv_inference_request_failure{model="count",reason="CANCELED",version="1"}'
    before = samples(running)[counted]
    with Stream(running) as stream:
        stream.send(asking("count", -3, "a"), asking("count", -3, "b"))
        assert {stream.next()[0], stream.next()[0]} == {"a", "b"}
        statistics = running.server.core.model("count").statistics
        ended = statistics.snapshot().response_stats["1"].cancel.count
        stream.call.cancel()

        assert names["cancelled"].wait(20)
        eventually(lambda: samples(running)[counted] == before + 2, "both are counted")
        assert statistics.snapshot().response_stats["1"].cancel.count == ended + 2
    names["gate"].set()


def test_statistics_tell_of_each_response(running: Running) -> None:
    """By its index, with the empty last one; of all models or of one; batches by their size."""
    with Stream(running) as stream:
        stream.send(asking("count", 2, empty=True))
        assert [stream.next()[1] for _ in range(3)] == [0, 1, None]
    with stub_of(running) as stub:
        request = service_pb2.ModelStatisticsRequest()
        every = {s.name for s in stub.ModelStatistics(request, timeout=20).model_stats}
        request.name, request.version = "count", "1"
        (one,) = stub.ModelStatistics(request, timeout=20).model_stats
        (fast,) = stub.ModelStatistics(
            service_pb2.ModelStatisticsRequest(name="fast"), timeout=20
        ).model_stats

    assert every == {"count", "slow", "fast"}
    assert {"0", "1", "2"} <= set(one.response_stats)
    assert one.response_stats["1"].success.count >= 1
    assert one.response_stats["2"].empty_response.count >= 1
    assert one.last_inference > 0
    assert [(b.batch_size, b.compute_infer.count) for b in fast.batch_stats] == [
        (1, fast.execution_count)
    ]
