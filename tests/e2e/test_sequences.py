"""Sequences over real sockets, with Triton's own clients."""

import asyncio
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e import sequence_models
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.utils import InferenceServerException

from penstock_runtime.scheduling.base import QueueStats

VALUES = (0, 11, 7, 5, 3, 2, 0, 1)


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server with the models of the example programs and those of these tests."""
    own = sequence_models.repository(tmp_path_factory.mktemp("sequences"))
    with ServerThread(options([MODELS, own], transport=request.param)) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def inputs(value: int, module: Any = triton, *, batched: bool = True) -> list[Any]:
    """INPUT with one number."""
    array = np.full((1, 1) if batched else (1,), value, np.int32)
    tensor = module.InferInput("INPUT", list(array.shape), "INT32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def number(result: Any) -> int:
    """The number in OUTPUT."""
    return int(result.as_numpy("OUTPUT").reshape(-1)[0])


def infer(client: Any, model: str, value: int, identity: int | str, flags: str = "") -> int:
    """One step of a sequence; S in `flags` is its START and E its END."""
    result = client.infer(
        model,
        inputs(value),
        sequence_id=identity,
        sequence_start="S" in flags,
        sequence_end="E" in flags,
    )
    return number(result)


def flags_of(index: int, count: int) -> str:
    """START for the first of so many, END for the last."""
    return "S" * (index == 0) + "E" * (index == count - 1)


def expected(extra: int) -> list[int]:
    """What the example programs compare with: one more at the START, the id more at the END."""
    return [VALUES[0] + 1, *VALUES[1:-1], VALUES[-1] + extra]


@pytest.mark.parametrize(
    ("model", "identity", "extra"),
    [
        ("simple_sequence", 1000, 0),
        ("simple_sequence", "b9f31e3c-0f0d", 0),
        ("simple_dyna_sequence", 1001, 1001),
        ("simple_string_dyna_sequence", "1002", 1002),
    ],
)
def test_the_synchronous_example_is_answered(
    client: Any, model: str, identity: int | str, extra: int
) -> None:
    """simple_grpc_sequence_sync_infer_client, with and without --dyna."""
    answers = [
        infer(client, model, value, identity, flags_of(index, len(VALUES)))
        for index, value in enumerate(VALUES)
    ]

    assert answers == expected(extra)


@pytest.mark.parametrize("dyna", [False, True])
def test_the_streaming_example_is_answered_in_order(client: Any, dyna: bool) -> None:
    """simple_grpc_sequence_stream_infer_client: sequences of both kinds of ids on one stream."""
    names = ("simple_dyna_sequence", "simple_string_dyna_sequence")
    models = names if dyna else ("simple_sequence", "simple_sequence")
    sequences: list[tuple[int | str, str]] = [(1000, models[0]), (1001, models[0])]
    sequences += [("1002", models[1])]
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put(error or result))

    for identity, model in sequences:
        for index, value in enumerate(VALUES):
            flags = flags_of(index, len(VALUES))
            client.async_stream_infer(
                model,
                inputs(value),
                request_id=f"{identity}_{index}",
                sequence_id=identity,
                sequence_start="S" in flags,
                sequence_end="E" in flags,
            )
    got = [results.get(timeout=10) for _ in range(len(sequences) * len(VALUES))]
    client.stop_stream()

    ids = [result.get_response().id for result in got]
    assert ids == [f"{identity}_{i}" for identity, _ in sequences for i in range(len(VALUES))]
    wanted = [n for identity, _ in sequences for n in expected(int(identity) if dyna else 0)]
    assert [number(result) for result in got] == wanted


def test_the_asyncio_streaming_example_is_answered(running: Running) -> None:
    """simple_grpc_aio_sequence_stream_infer_client."""

    async def requests() -> Any:
        for index, value in enumerate(VALUES):
            flags = flags_of(index, len(VALUES))
            for identity in (2000, 2001):
                yield {
                    "model_name": "simple_dyna_sequence",
                    "inputs": inputs(value, triton_aio),
                    "request_id": f"{identity}_{index}",
                    "sequence_id": identity,
                    "sequence_start": "S" in flags,
                    "sequence_end": "E" in flags,
                }

    async def talk() -> dict[str, int]:
        answers = {}
        async with triton_aio.InferenceServerClient(running.target) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None
                answers[result.get_response().id] = number(result)
                if len(answers) == 2 * len(VALUES):
                    break
        return answers

    answers = asyncio.run(talk())

    for identity in (2000, 2001):
        got = [answers[f"{identity}_{index}"] for index in range(len(VALUES))]
        assert got == expected(identity)


def test_a_start_begins_anew_and_an_end_frees_the_id(client: Any) -> None:
    """On an id whose sequence goes on, and on one whose sequence is over."""
    first = [infer(client, "simple_sequence", value, 77, "S" * (value == 5)) for value in (5, 6)]
    again = [
        infer(client, "simple_sequence", 7, 77, "S"),
        infer(client, "simple_sequence", 1, 77, "E"),
    ]
    after = infer(client, "simple_sequence", 9, 77, "SE")

    assert (first, again, after) == ([6, 6], [8, 1], 10)


def test_controls_and_states_are_no_inputs_of_clients(client: Any) -> None:
    """Metadata lists what clients send and get; a control that is sent is unknown."""
    metadata = client.get_model_metadata("sum")
    control = triton.InferInput("SUM_IN", [1, 1], "INT32")
    control.set_data_from_numpy(np.zeros((1, 1), np.int32))

    with pytest.raises(InferenceServerException, match="unexpected inference input 'SUM_IN'"):
        client.infer("sum", [*inputs(1), control], sequence_id=1, sequence_start=True)

    assert [tensor.name for tensor in metadata.inputs] == ["INPUT"]
    assert [tensor.name for tensor in metadata.outputs] == ["OUTPUT"]


def test_states_are_kept_apart_over_many_sequences_at_once(running: Running) -> None:
    """Six sequences on two slots: each adds up its own numbers, whoever is executed beside it."""
    wrong: list[object] = []

    def go(identity: int) -> None:
        with triton.InferenceServerClient(running.target) as own:
            total = 0
            for index in range(10):
                total += identity + index
                answer = infer(own, "sum", identity + index, identity, flags_of(index, 10))
                if answer != total:
                    wrong.append((identity, index, answer, total))

    threads = [threading.Thread(target=go, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_a_step_that_fails_leaves_its_sequence_as_it_was(client: Any) -> None:
    """The error is the caller's, and the next step goes on from the one before."""
    first = infer(client, "picky", 5, 1, "S")
    with pytest.raises(InferenceServerException) as failed:
        infer(client, "picky", 13, 1)
    last = infer(client, "picky", 7, 1, "E")

    assert failed.value.status() == "StatusCode.INTERNAL"
    assert (first, last) == (5, 12)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"sequence_id": 404},
            "inference request for sequence 404 to model 'simple_dyna_sequence' must specify the "
            "START flag on the first request of the sequence",
        ),
        (
            {},
            "inference request to model 'simple_dyna_sequence' must specify a non-zero or "
            "non-empty correlation ID",
        ),
        (
            {"sequence_id": "text", "sequence_start": True},
            "sequence batching control 'CORRID' data-type is 'BYTES', but model "
            "'simple_dyna_sequence' expects 'UINT64'",
        ),
    ],
)
def test_what_is_no_sequence_is_refused_with_the_text_that_clients_know(
    client: Any, more: dict[str, Any], text: str
) -> None:
    """WIRE 7.5, with the request's id in front."""
    with pytest.raises(InferenceServerException) as refused:
        client.infer("simple_dyna_sequence", inputs(1), request_id="r", **more)

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refused.value.message() == f"[request id: r] {text}"


def test_a_batch_of_requests_is_refused(client: Any) -> None:
    """A sequence goes on one request at a time."""
    tensor = triton.InferInput("INPUT", [2, 1], "INT32")
    tensor.set_data_from_numpy(np.zeros((2, 1), np.int32))

    with pytest.raises(InferenceServerException, match="must specify batch-size 1 due to"):
        client.infer("simple_sequence", [tensor], sequence_id=1, sequence_start=True)


def test_a_backlogged_sequence_times_out_and_a_silent_one_gives_way(client: Any) -> None:
    """One slot: who waits for it is rejected by its own time-out, or served in its turn."""
    ask = partial(client.infer, "short", inputs(1, batched=False), sequence_start=True)
    ask(sequence_id=1)

    with pytest.raises(InferenceServerException) as rejected:
        ask(sequence_id=2, timeout=1000)
    served = ask(sequence_id=3)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        client.infer("short", inputs(1, batched=False), sequence_id=1)

    assert rejected.value.status() == "StatusCode.UNAVAILABLE"
    assert "timeout of the corresponding sequence has been expired" in str(rejected.value)
    assert number(served) == 1


def test_an_iterative_request_is_answered_once_after_all_its_steps(running: Running) -> None:
    """Without ids, several at once, each as long as its model wants."""
    answers: dict[int, int] = {}

    def go(steps: int) -> None:
        with triton.InferenceServerClient(running.target) as own:
            answers[steps] = number(own.infer("countdown", inputs(steps)))

    threads = [threading.Thread(target=go, args=(n,)) for n in (1, 2, 5, 9, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert answers == {n: n for n in (1, 2, 5, 9, 30)}
    with triton.InferenceServerClient(running.target) as own:
        (stats,) = own.get_inference_statistics("countdown").model_stats
    assert stats.inference_stats.success.count == 5
    assert stats.inference_stats.fail.count == 0
    assert stats.inference_count == 47


def test_a_decoupled_iterative_request_streams_its_steps(client: Any) -> None:
    """What each step yields goes out, and one last response ends it."""
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put(error or result))

    client.async_stream_infer("tokens", inputs(4), enable_empty_final_response=True)
    got = [results.get(timeout=10) for _ in range(5)]
    client.stop_stream()

    finals = [r.get_response().parameters["triton_final_response"].bool_param for r in got]
    assert [number(result) for result in got[:4]] == [1, 2, 3, 4]
    assert finals == [False, False, False, False, True]
    (counted,) = client.get_inference_statistics("tokens").model_stats
    ends = sum(found.empty_response.count for found in counted.response_stats.values())
    assert ends == counted.inference_stats.success.count == 1


def waiting(running: Running, model: str) -> QueueStats:
    """What waits for a model."""
    return running.server.repository.get(model, "").queue_stats()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_cancelling_one_queued_request_cancels_those_of_its_sequence(
    running: Running, client: Any
) -> None:
    """They end with CANCELLED, and the sequence has to start again."""
    ends: queue.Queue[Any] = queue.Queue()
    infer(client, "slow", 0, 5, "S")
    calls = [
        client.async_infer(
            "slow", inputs(value), lambda result, error: ends.put(error or result), sequence_id=5
        )
        for value in (250, 0, 0)
    ]
    wait_for(lambda: waiting(running, "slow").requests == 2)

    calls[1].cancel()
    got = [ends.get(timeout=10) for _ in range(3)]

    statuses = sorted(
        end.status() if isinstance(end, InferenceServerException) else "" for end in got
    )
    assert statuses == ["", "StatusCode.CANCELLED", "StatusCode.CANCELLED"]
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        infer(client, "slow", 0, 5)


def test_more_sequences_than_may_wait_are_refused_and_metrics_tell(
    running: Running, client: Any
) -> None:
    """Four slots, two that wait; the seventh is told so at once."""
    ends: queue.Queue[Any] = queue.Queue()
    for identity in (1, 2, 3, 4):
        infer(client, "slow", 0, identity, "S")
    for identity in (5, 6):
        client.async_infer(
            "slow",
            inputs(identity),
            lambda result, error: ends.put(error or number(result)),
            sequence_id=identity,
            sequence_start=True,
            sequence_end=True,
        )
    wait_for(lambda: waiting(running, "slow").requests == 2)

    with pytest.raises(InferenceServerException) as refused:
        infer(client, "slow", 0, 7, "S")
    url = f"http://127.0.0.1:{running.metrics_port}/metrics"
    with urllib.request.urlopen(url) as page:
        text = page.read().decode()
    for identity in (1, 2, 3, 4):
        infer(client, "slow", 0, identity, "E")

    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert 'penstock_sequences_live{model="slow",version="1"} 4' in text
    assert 'penstock_sequences_backlog{model="slow",version="1"} 2' in text
    assert 'nv_inference_pending_request_count{model="slow",version="1"} 2' in text
    assert sorted(ends.get(timeout=10) for _ in range(2)) == [5, 6]
