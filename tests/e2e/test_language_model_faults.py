"""Callers of a language model that go, are late, are too many, or see it reloaded: nothing is lost,
and nothing stays.
"""

import asyncio
import gc
import queue
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("transformers")
pytest.importorskip("llguidance")

import h2.config
import h2.connection
import h2.events
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e.language_models import (
    PROMPT,
    ask,
    is_idle,
    joined,
    metrics,
    outputs,
    tensors,
    text_of,
    wait_until,
    write_language_model,
)
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException

from penstock_protos import inference
from penstock_runtime.llm.kv_pool import KvPool

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"
LONG: dict[str, Any] = {"max_tokens": 480, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("language_models")
    write_language_model(root, "tiny", max_num_seqs=4, max_queued_requests=6)
    return root


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[Running]:
    """A server whose model runs four texts at a time and lets six wait."""
    settings = options([repository], model_control_mode="explicit", load_model=("tiny",))
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def message(model: str = "tiny", identity: str = "", **sampling: Any) -> bytes:
    """A request on the wire."""
    request = inference.ModelInferRequest(model_name=model, id=identity)
    for tensor in ask(**sampling):
        request.MergeFromString(
            inference.ModelInferRequest(
                inputs=[
                    inference.ModelInferRequest.InferInputTensor(
                        name=tensor.name(), datatype="BYTES", shape=tensor.shape()
                    )
                ]
            ).SerializeToString()
        )
        request.raw_input_contents.append(tensor._get_content())
    return request.SerializeToString()


# -- callers that go -------------------------------------------------------------------------------


def test_a_stream_that_is_cancelled_gives_its_blocks_back(running: Running) -> None:
    """In the middle of its text, and long before its end."""
    with grpc.insecure_channel(running.target) as channel:
        call = channel.stream_stream(STREAM)(iter((message(**LONG),)))
        next(call)
        before = metrics(running)
        call.cancel()
        wait_until(lambda: is_idle(running))
    after = metrics(running)

    assert before["num_requests_running"] == 1
    assert before["kv_cache_usage_perc"] > 0
    grown = after["generation_tokens_total"] - before["generation_tokens_total"]
    assert grown < 400
    assert after["request_success_total:abort"] - before.get("request_success_total:abort", 0) == 1


def test_callers_whose_channels_close_leave_nothing(running: Running) -> None:
    """Many at once, with streams of several requests, running and waiting."""
    before = metrics(running).get("request_success_total:abort", 0)
    channels = [grpc.insecure_channel(running.target) for _ in range(3)]
    calls = [
        channel.stream_stream(STREAM)(iter([message(identity=str(k), **LONG) for k in range(2)]))
        for channel in channels
    ]
    for call in calls[:2]:
        next(call)
    wait_until(lambda: metrics(running)["num_requests_waiting"] == 2)

    for channel in channels:
        channel.close()

    wait_until(lambda: is_idle(running))
    wait_until(lambda: metrics(running)["request_success_total:abort"] - before == 6)


def test_a_caller_whose_connection_breaks_leaves_nothing(running: Running) -> None:
    """It sends no goodbye: the connection is reset."""
    host, port = running.target.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        protocol.initiate_connection()
        protocol.send_headers(
            1,
            [
                *((":method", "POST"), (":scheme", "http"), (":path", STREAM)),
                *((":authority", "test"), ("content-type", "application/grpc"), ("te", "trailers")),
            ],
        )
        body = message(**LONG)
        protocol.send_data(1, struct.pack(">BI", 0, len(body)) + body)
        raw.sendall(protocol.data_to_send())
        seen: list[Any] = []
        while not any(isinstance(event, h2.events.DataReceived) for event in seen):
            seen += protocol.receive_data(raw.recv(65536))
            raw.sendall(protocol.data_to_send())
        busy = metrics(running)["num_requests_running"]
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    wait_until(lambda: is_idle(running))
    assert busy == 1


def test_a_whole_answer_that_is_cancelled_gives_its_blocks_back(running: Running) -> None:
    """Nobody waits for it, running or queued."""
    with grpc.insecure_channel(running.target) as channel:
        calls = [channel.unary_unary(INFER).future(message(**LONG)) for _ in range(6)]
        wait_until(lambda: metrics(running)["num_requests_waiting"] == 2)
        for call in calls:
            call.cancel()
        wait_until(lambda: is_idle(running))

    assert all(call.cancelled() for call in calls)


# -- time, and room --------------------------------------------------------------------------------


def test_a_deadline_ends_either_call_and_gives_its_blocks_back(running: Running) -> None:
    """DEADLINE_EXCEEDED, while others go on."""
    other: list[Any] = []

    def go_on() -> None:
        with triton.InferenceServerClient(running.target) as mine:
            other.append(mine.infer("tiny", ask(**LONG), outputs=outputs("num_output_tokens")))

    thread = threading.Thread(target=go_on)
    thread.start()
    with grpc.insecure_channel(running.target) as channel:
        with pytest.raises(grpc.RpcError) as whole:
            channel.unary_unary(INFER)(message(**LONG), timeout=0.15)
        with pytest.raises(grpc.RpcError) as streamed:
            list(channel.stream_stream(STREAM)(iter((message(**LONG),)), timeout=0.15))
    thread.join()
    wait_until(lambda: is_idle(running))

    assert whole.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert streamed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert other[0].as_numpy("num_output_tokens")[0] == 480


def test_a_model_may_have_a_deadline_for_those_who_have_none(repository: Path) -> None:
    """It is told as any other."""
    write_language_model(repository, "hasty", default_timeout_s=0.1)
    settings = options([repository], model_control_mode="explicit", load_model=("hasty",))
    with (
        ServerThread(settings) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        wait_until(lambda: is_quick(client))
        with pytest.raises(InferenceServerException) as late:
            client.infer("hasty", ask(**LONG))
        wait_until(lambda: is_idle(running, "hasty"))
    shutil.rmtree(repository / "hasty")

    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def is_quick(client: triton.InferenceServerClient) -> bool:
    """Whether a token comes in time; the first may not on a busy machine."""
    with suppress(InferenceServerException):
        client.infer("hasty", ask(max_tokens=1))
        return True
    return False


def test_who_finds_the_queue_full_is_told_when_to_come_back(running: Running) -> None:
    """UNAVAILABLE at once, with a hint; those who wait are answered."""
    with grpc.insecure_channel(running.target) as channel:
        infer = channel.unary_unary(INFER)
        begun = [infer.future(message(**LONG), timeout=60) for _ in range(4)]
        wait_until(lambda: metrics(running)["num_requests_running"] == 4)
        waiting = [infer.future(message(max_tokens=2), timeout=60) for _ in range(6)]
        wait_until(lambda: metrics(running)["num_requests_waiting"] == 6)
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            infer(message(max_tokens=2), timeout=60)
        took = time.monotonic() - started
        answered = [call.result() for call in begun + waiting]

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "max_queued_requests" in refused.value.details()
    assert any(key == "grpc-retry-pushback-ms" for key, _ in refused.value.trailing_metadata())
    assert took < 5
    assert len(answered) == 10


def test_a_slow_reader_keeps_no_other_waiting(running: Running, client: Any) -> None:
    """Its answer waits for it; it takes it later."""
    with grpc.insecure_channel(running.target) as channel:
        slow = channel.stream_stream(STREAM)(iter([message(n=4, **LONG)]))
        next(slow)
        quick = client.infer("tiny", ask(max_tokens=4))
        rest = list(slow)

    assert text_of(quick)
    last = inference.ModelStreamInferResponse.FromString(rest[-1])
    assert not last.error_message
    assert is_idle(running)


# -- models that come and go -----------------------------------------------------------------------


def test_streams_under_reloads_lose_nothing(
    running: Running, client: Any, repository: Path
) -> None:
    """Each text is whole, by the weights that it began with; the engines of the past are gone."""
    config = repository / "tiny" / "config.pbtxt"
    text = config.read_text() + 'parameters { key: "note" value { string_value: "tiny_turn" } }'
    before = engines()
    sampling: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, "temperature": 0}
    wanted = text_of(client.infer("tiny", ask(**sampling)))

    async def stream(asyncs: Any, number: int) -> str:
        async def requests() -> Any:
            yield {
                "model_name": "tiny",
                "inputs": triton_inputs(sampling),
                "request_id": str(number),
                "enable_empty_final_response": True,
            }

        found = []
        async for result, error in asyncs.stream_infer(requests()):
            assert error is None, error
            if result.as_numpy("text_output") is not None:
                found.append(result)
        return joined(found)

    async def main() -> list[str]:
        texts: list[str] = []
        done = asyncio.Event()
        async with triton_aio.InferenceServerClient(running.target) as asyncs:

            async def caller(number: int) -> None:
                while not done.is_set():
                    texts.append(await stream(asyncs, number))

            callers = [asyncio.create_task(caller(number)) for number in range(3)]
            for turn in range(4):
                config.write_text(text.replace("tiny_turn", f"turn {turn}"))
                await asyncs.load_model("tiny")
            done.set()
            await asyncio.gather(*callers)
        return texts

    texts = asyncio.run(main())

    assert before[0] > 2
    assert before[1] == 1
    assert len(texts) >= 6
    assert set(texts) == {wanted}
    wait_until(lambda: engines() == before)
    assert is_idle(running)


def engines() -> tuple[int, int]:
    """How many threads the engines of the model have, and how many caches there are."""
    gc.collect()
    caches = sum(type(each) is KvPool for each in gc.get_objects())
    return sum("tiny" in thread.name for thread in threading.enumerate()), caches


def triton_inputs(sampling: dict[str, Any]) -> list[Any]:

    return tensors({"text_input": PROMPT, "sampling_parameters": sampling}, triton_aio)


def test_an_unload_waits_for_those_who_are_answered(running: Running, client: Any) -> None:
    """Who comes later is refused; the model comes back."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(running.target) as mine:
        mine.start_stream(lambda result, error: answers.put(error or result))
        mine.async_stream_infer("tiny", ask(**LONG), outputs=outputs("text_output", "index"))
        first = answers.get(timeout=30)
        client.unload_model("tiny")
        with pytest.raises(InferenceServerException):
            client.infer("tiny", ask(max_tokens=1))
        found = [first]
        while not found[-1].get_response().parameters["triton_final_response"].bool_param:
            found.append(answers.get(timeout=30))
            assert not isinstance(found[-1], Exception), found[-1]
        mine.stop_stream()
    client.load_model("tiny")

    again = client.infer("tiny", ask(**LONG))
    assert joined(found) == text_of(again)


# -- a process of its own --------------------------------------------------------------------------


def test_a_model_in_a_process_of_its_own_serves_and_streams(tmp_path: Path) -> None:
    """The same texts; who goes there leaves nothing that would keep others waiting."""
    write_language_model(
        tmp_path, "apart", "instance_group [ { kind: KIND_PROCESS } ]\n", max_num_seqs=1
    )
    write_language_model(tmp_path, "tiny")
    with (
        ServerThread(options([tmp_path])) as running,
        triton.InferenceServerClient(running.target) as client,
        grpc.insecure_channel(running.target) as channel,
    ):
        sampling: dict[str, Any] = {"max_tokens": 24, "seed": 5, "ignore_eos": True}
        here = text_of(client.infer("tiny", ask(**sampling)))
        there = text_of(client.infer("apart", ask(**sampling)))
        call = channel.stream_stream(STREAM)(iter([message("apart", **sampling)]), timeout=60)
        bits = [inference.ModelStreamInferResponse.FromString(data) for data in call]
        gone = channel.stream_stream(STREAM)(iter([message("apart", **LONG)]))
        next(gone)
        gone.cancel()
        slow = channel.stream_stream(STREAM)(iter([message("apart", n=2, **LONG)]), timeout=60)
        next(slow)
        with pytest.raises(InferenceServerException, match="regex"):
            client.infer("apart", ask(regex="(("))
        bound = text_of(client.infer("apart", ask(regex="[ab]{5}")))
        rest = list(slow)
        with pytest.raises(InferenceServerException, match="ModelStreamInfer"):
            client.infer("apart", [*ask(), *stream_flag()])

    assert here == there
    texts = [each.infer_response.raw_output_contents[0][4:].decode() for each in bits]
    assert len(bits) > 8
    assert "".join(texts) == here
    assert len(bound) == 5
    assert not inference.ModelStreamInferResponse.FromString(rest[-1]).error_message


def stream_flag() -> list[Any]:

    return tensors({"stream": True})
