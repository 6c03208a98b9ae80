"""System shared memory as tritonclient uses it, through real sockets, on each transport."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e.regions import (
    Region,
    given,
    held,
    output,
    region,
    settled,
    tensor,
    until,
    write_models,
)
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from penstock_runtime.errors import FailureReason

ONES = np.ones((1, 4), np.float32)
SEVENS = ONES * 7


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Running]:
    """A server that lets clients share memory, on each transport."""
    root = write_models(tmp_path_factory.mktemp("shared"))
    settings = options(
        [root, MODELS],
        allow_client_shm=True,
        cache_config=("local,size=1000000",),
        transport=request.param,
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it; when it is done, nothing is held any more."""
    with triton.InferenceServerClient(running.target) as made:
        yield made
        until(lambda: settled(running))
        assert running.server.services.regions.open_regions == 0


@pytest.fixture
def go(running: Running) -> Iterator[Path]:
    """The file that lets the model go on."""
    file = Path(running.server.options.model_repository[0]) / "held" / "go"
    yield file
    file.touch()
    until(lambda: not held(running).unanswered)
    file.unlink()


# -- what the example programs do ----------------------------------------------------------------


def test_numbers_go_and_come_through_regions(client: Any) -> None:
    """simple_grpc_shm_client: two inputs in one region, two outputs in another, each at its
    offset; status before, between and after.
    """
    client.unregister_system_shared_memory()
    numbers, ones = np.arange(16, dtype=np.int32), np.ones(16, np.int32)
    with region(client, 128) as source, region(client, 128) as target:
        source.put(numbers, ones)
        inputs = [
            tensor("INPUT0", [1, 16], "INT32", source.name, 64),
            tensor("INPUT1", [1, 16], "INT32", source.name, 64, 64),
        ]
        wanted = [output("OUTPUT0", target.name, 64), output("OUTPUT1", target.name, 64, 64)]

        results = [client.infer("simple", inputs, outputs=wanted, request_id=str(i)) for i in "123"]

        status = client.get_system_shared_memory_status(as_json=True)["regions"]
        client.unregister_system_shared_memory(source.name)
        left = client.get_system_shared_memory_status(as_json=True)["regions"]
        assert target.get(np.int32, 1, 16).tolist() == [(numbers + ones).tolist()]
        assert target.get(np.int32, 1, 16, offset=64).tolist() == [(numbers - ones).tolist()]
        assert sorted(status) == sorted((source.name, target.name))
        assert status[source.name] == {"name": source.name, "key": source.key, "byte_size": "128"}
        assert sorted(left) == [target.name]
    response = results[2].get_response()
    assert response.id == "3"
    assert [o.name for o in response.outputs] == ["OUTPUT0", "OUTPUT1"]
    assert list(response.raw_output_contents) == [b"", b""]
    told = response.outputs[1]
    assert (told.datatype, list(told.shape)) == ("INT32", [1, 16])
    assert told.parameters["shared_memory_region"].string_param == target.name
    assert told.parameters["shared_memory_byte_size"].int64_param == 64
    assert told.parameters["shared_memory_offset"].int64_param == 64
    assert client.get_system_shared_memory_status(as_json=True) == {}


def test_strings_go_and_come_through_regions(client: Any) -> None:
    """simple_grpc_shm_string_client: the length-prefixed form, of any length that fits."""
    numbers = [
        np.array([str(i).encode() for i in values], np.object_)
        for values in ((range(16)), (1,) * 16)
    ]
    packed = [serialize_byte_tensor(array) for array in numbers]
    sizes = [len(array.item()) for array in packed]
    with region(client, sum(sizes)) as source, region(client, 512) as target:
        source.put(*packed)
        inputs = [
            tensor("INPUT0", [1, 16], "BYTES", source.name, sizes[0]),
            tensor("INPUT1", [1, 16], "BYTES", source.name, sizes[1], sizes[0]),
        ]
        wanted = [output("OUTPUT0", target.name, 256), output("OUTPUT1", target.name, 256, 256)]

        result = client.infer("simple_string", inputs, outputs=wanted)

        sums = target.get(np.object_, 1, 16)
        differences = target.get(np.object_, 1, 16, offset=256)
    assert [int(text) for text in sums[0]] == list(range(1, 17))
    assert [int(text) for text in differences[0]] == list(range(-1, 15))
    told = result.get_response().outputs[0].parameters["shared_memory_byte_size"].int64_param
    assert told == sum(4 + len(text) for text in sums[0])


def test_the_same_objects_are_used_in_and_out_of_regions(client: Any) -> None:
    """reuse_infer_objects_client: data in the messages, then in regions, then in messages again."""
    numbers, ones = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    outputs = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]

    def in_messages() -> Any:
        for tensor_, values in zip(inputs, (numbers, ones), strict=True):
            tensor_.set_data_from_numpy(values)
        return client.infer("simple", inputs, outputs=outputs).as_numpy("OUTPUT0")

    with region(client, 128) as source, region(client, 128) as target:
        first = in_messages()
        source.put(numbers * 2, ones)
        for offset, (tensor_, output_) in zip(
            (0, 64), zip(inputs, outputs, strict=True), strict=True
        ):
            tensor_.set_shared_memory(source.name, 64, offset)
            output_.set_shared_memory(target.name, 64, offset)
        client.infer("simple", inputs, outputs=outputs)
        second = target.get(np.int32, 1, 16).tolist()
        for output_ in outputs:
            output_.unset_shared_memory()
        third = in_messages()

    assert first.tolist() == third.tolist() == (numbers + ones).tolist()
    assert second == (numbers * 2 + ones).tolist()


def test_the_asyncio_client_uses_regions(running: Running, client: Any) -> None:
    """simple_grpc_aio_shm_client's way: registered, used and asked for through asyncio."""

    async def ask(source: Region, target: Region) -> list[Any]:
        async with triton_aio.InferenceServerClient(running.target) as aio:
            await aio.register_system_shared_memory(source.name, source.key, 16)
            status = await aio.get_system_shared_memory_status(source.name)
            calls = [
                aio.infer(
                    "held",
                    [tensor("X", [1, 4], "FP32", source.name, 16, module=triton_aio)],
                    outputs=[output("Y", target.name, 16, 16 * number, module=triton_aio)],
                )
                for number in range(4)
            ]
            await asyncio.gather(*calls)
            await aio.unregister_system_shared_memory(source.name)
            return [entry.byte_size for entry in status.regions.values()]

    with region(client, 16, register=False) as source, region(client, 64) as target:
        source.put(ONES * 3)

        sizes = asyncio.run(ask(source, target))

        assert target.get(np.float32, 16).tolist() == [6.0] * 16
    assert sizes == [16]


# -- what is in a region and what is in the message ----------------------------------------------


def test_a_tensor_in_a_region_may_stand_beside_others_in_the_message(client: Any) -> None:
    """Inputs and outputs alike; only those of the message have raw entries that are not empty."""
    with region(client) as shared:
        shared.put(np.arange(16, dtype=np.int32))
        inputs = [
            given("INPUT0", np.full((1, 16), 100, np.int32), "INT32"),
            tensor("INPUT1", [1, 16], "INT32", shared.name, 64),
        ]
        wanted = [output("OUTPUT1"), output("OUTPUT0", shared.name, 64)]

        result = client.infer("simple", inputs, outputs=wanted)

        assert result.as_numpy("OUTPUT1").tolist() == [[100 - i for i in range(16)]]
        assert shared.get(np.int32, 16).tolist() == [100 + i for i in range(16)]
    assert [len(raw) for raw in result.get_response().raw_output_contents] == [64, 0]


def test_an_output_that_is_not_asked_for_in_a_region_is_in_the_message(client: Any) -> None:
    """Inputs in a region change nothing for the answer, whatever way it goes."""
    with region(client) as shared:
        shared.put(ONES)

        results = [
            client.infer("held", [tensor("X", [1, 4], "FP32", shared.name, 16)], outputs=wanted)
            for wanted in (None, [output("Y")])
        ]

    assert [result.as_numpy("Y").tolist() for result in results] == [[[2.0] * 4]] * 2


def test_classes_of_one_output_and_a_region_of_another_go_together(client: Any) -> None:
    """Each output is as it was asked for."""
    with region(client) as shared:
        wanted = [triton.InferRequestedOutput("ROWS", class_count=1), output("Y", shared.name, 16)]

        result = client.infer("held", [given("X", ONES)], outputs=wanted)

        assert shared.get(np.float32, 4).tolist() == [2.0] * 4
    assert result.as_numpy("ROWS").tolist() == [[b"1:0"]]


def test_an_output_of_nothing_needs_no_room(client: Any) -> None:
    """And one that fills its place exactly fits."""
    with region(client) as shared:
        wanted = [output("Y", shared.name, 0, 64)]
        nothing = client.infer(
            "zeros", [given("N", np.zeros(1, np.int32), "INT32")], outputs=wanted
        )
        wanted = [output("Y", shared.name, 64)]
        all_of_it = client.infer(
            "zeros", [given("N", np.full(1, 16, np.int32), "INT32")], outputs=wanted
        )

    shapes = [list(result.get_response().outputs[0].shape) for result in (nothing, all_of_it)]
    assert shapes == [[0], [16]]


def test_an_input_of_ten_megabytes_is_exact(client: Any) -> None:
    """Read in a thread, in and out."""
    size = 10 << 20
    text = np.random.default_rng(1).integers(0, 256, size - 4, np.uint8).tobytes()
    with region(client, size) as source, region(client, size) as target:
        source.put(serialize_byte_tensor(np.array([text], np.object_)))

        client.infer(
            "simple_identity",
            [tensor("INPUT0", [1, 1], "BYTES", source.name, size)],
            outputs=[output("OUTPUT0", target.name, size)],
        )

        assert target.get(np.object_, 1)[0] == text


# -- several requests ----------------------------------------------------------------------------


def blocked(running: Running, client: Any) -> "queue.Queue[Any]":
    """Have the model execute a request until it may go on; where its answer comes."""
    answers: queue.Queue[Any] = queue.Queue()
    client.async_infer(
        "held", [given("X", SEVENS)], lambda result, error: answers.put(error or result)
    )
    model = held(running)
    until(lambda: model.unanswered == 1 and not model.queue_stats().requests)
    return answers


def until_waiting(running: Running, number: int) -> None:
    """Wait until the model executes a request and so many others wait for it."""
    model = held(running)
    until(lambda: (model.unanswered, model.queue_stats().requests) == (number + 1, number))


def test_requests_with_regions_share_a_batch(running: Running, client: Any, go: Path) -> None:
    """Inputs from regions and from messages are merged, and each output goes where it is wanted."""
    answers = blocked(running, client)
    with region(client, 128) as shared:
        shared.put(np.arange(16, dtype=np.float32))
        for row in range(4):
            client.async_infer(
                "held",
                [tensor("X", [1, 4], "FP32", shared.name, 16, 16 * row)],
                lambda result, error: answers.put(error or result),
                outputs=[output("ROWS"), output("Y", shared.name, 16, 64 + 16 * row)],
            )
        client.async_infer(
            "held", [given("X", ONES)], lambda result, error: answers.put(error or result)
        )
        until(lambda: held(running).queue_stats().requests == 5)

        go.touch()
        results = [answers.get(timeout=20) for _ in range(6)]

        assert shared.get(np.float32, 16, offset=64).tolist() == [2.0 * i for i in range(16)]
    rows = sorted(int(result.as_numpy("ROWS")[0, 0]) for result in results)
    assert rows == [1, 5, 5, 5, 5, 5]
    whole = [r for r in results if all(r.get_response().raw_output_contents)]
    assert sorted(r.as_numpy("Y")[0, 0] for r in whole) == [2.0, 14.0]


def test_an_input_is_as_it_was_when_its_request_came(
    running: Running, client: Any, go: Path
) -> None:
    """Whoever writes into a region that is in use changes nothing that has been checked."""
    answers = blocked(running, client)
    with region(client) as shared:
        shared.put(ONES)
        client.async_infer(
            "held",
            [tensor("X", [1, 4], "FP32", shared.name, 16)],
            lambda result, error: answers.put(error or result),
        )
        until(lambda: held(running).queue_stats().requests == 1)

        shared.put(ONES * -1)
        go.touch()
        results = [answers.get(timeout=20) for _ in range(2)]

    assert results[1].as_numpy("Y").tolist() == [[2.0] * 4]


def test_a_region_that_is_unregistered_while_a_request_waits_is_open_until_its_answer(
    running: Running, client: Any, go: Path
) -> None:
    """The name is gone at once, and may be taken again; the request goes on with what it had."""
    answers = blocked(running, client)
    regions = running.server.services.regions
    with region(client) as shared, region(client, 32, register=False) as other:
        shared.put(ONES * 3)
        client.async_infer(
            "held",
            [tensor("X", [1, 4], "FP32", shared.name, 16)],
            lambda result, error: answers.put(error or result),
            outputs=[output("Y", shared.name, 16, 16)],
        )
        until(lambda: held(running).queue_stats().requests == 1)

        client.unregister_system_shared_memory(shared.name)
        client.register_system_shared_memory(shared.name, other.key, 32)
        kept = regions.open_regions
        go.touch()
        for _ in range(2):
            answers.get(timeout=20)
        until(lambda: regions.open_regions == 1)

        assert kept == 2
        assert shared.get(np.float32, 4, offset=16).tolist() == [6.0] * 4
        assert other.get(np.float32, 4, offset=16).tolist() == [0.0] * 4


def test_an_object_that_is_truncated_while_a_request_waits_is_an_error_of_that_request(
    running: Running, client: Any, go: Path
) -> None:
    """Its output has nowhere to go; the object is not made larger, and the others are answered."""
    answers = blocked(running, client)
    with region(client) as shared:
        client.async_infer(
            "held",
            [given("X", ONES)],
            lambda result, error: answers.put(error or result),
            outputs=[output("Y", shared.name, 16, 48)],
        )
        until(lambda: held(running).queue_stats().requests == 1)

        shared.truncate(32)
        go.touch()
        results = [answers.get(timeout=20) for _ in range(2)]

        assert (Path("/dev/shm") / shared.key[1:]).stat().st_size == 32
    (error,) = [result for result in results if isinstance(result, Exception)]
    assert isinstance(error, InferenceServerException)
    assert error.message() == (
        f"Invalid offset + byte size for shared memory region: '{shared.name}'"
    )


def test_a_request_that_is_given_up_writes_nothing_and_lets_go(
    running: Running, client: Any, go: Path
) -> None:
    """Whether it waits or is executed when its caller goes away; each is counted once."""
    before = held(running).statistics.snapshot().failures[FailureReason.CANCELED]
    with region(client) as shared:
        shared.put(SEVENS)
        calls = []
        for number in range(3):
            calls.append(
                client.async_infer(
                    "held",
                    [tensor("X", [1, 4], "FP32", shared.name, 16)],
                    lambda result, error: None,
                    outputs=[output("Y", shared.name, 16, 16)],
                )
            )
            # The first is executed, the others wait.
            until_waiting(running, number)
            assert held(running).unanswered == number + 1
        for call in calls:
            call.cancel()
        until(lambda: held(running).unanswered == 1)

        client.unregister_system_shared_memory(shared.name)
        go.touch()
        until(lambda: running.server.services.regions.open_regions == 0)

        assert shared.get(np.float32, 4, offset=16).tolist() == [0.0] * 4
    until(lambda: settled(running))
    assert held(running).statistics.snapshot().failures[FailureReason.CANCELED] == before + 3


def test_a_model_that_fails_writes_nothing_and_lets_go(client: Any) -> None:
    """The error is the model's."""
    with region(client) as shared:
        shared.put(-ONES)

        with pytest.raises(InferenceServerException, match="negative"):
            client.infer(
                "held",
                [tensor("X", [1, 4], "FP32", shared.name, 16)],
                outputs=[output("Y", shared.name, 16, 16)],
            )

        assert shared.get(np.float32, 4, offset=16).tolist() == [0.0] * 4


# -- streams -------------------------------------------------------------------------------------


def test_requests_of_a_stream_use_regions_and_are_refused_in_band(client: Any) -> None:
    """In their order, and the stream goes on."""
    answers: queue.Queue[Any] = queue.Queue()
    with region(client) as shared:
        shared.put(ONES)
        client.start_stream(lambda result, error: answers.put(error or result))
        for name in (shared.name, "nobody", shared.name):
            client.async_stream_infer(
                "held",
                [tensor("X", [1, 4], "FP32", name, 16)],
                outputs=[output("Y", shared.name, 16, 16)],
                request_id=name,
            )
        first, refused, last = (answers.get(timeout=20) for _ in range(3))
        client.stop_stream()

        assert shared.get(np.float32, 4, offset=16).tolist() == [2.0] * 4
    for result in (first, last):
        assert result.get_response().outputs[0].parameters["shared_memory_offset"].int64_param == 16
    assert refused.message() == "Unable to find shared memory region: 'nobody'"


def test_each_response_of_a_decoupled_model_overwrites_the_one_before(client: Any) -> None:
    """As Triton does: every response has the same place; what is in the messages tells them
    apart.
    """
    answers: queue.Queue[Any] = queue.Queue()
    with region(client) as shared:
        shared.put(np.ones(1, np.float32))
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer(
            "count",
            [tensor("X", [1], "FP32", shared.name, 4)],
            outputs=[output("I"), output("Y", shared.name, 4, 4)],
            enable_empty_final_response=True,
        )
        results = [answers.get(timeout=20) for _ in range(4)]
        client.stop_stream()

        assert shared.get(np.float32, 1, offset=4).tolist() == [3.0]
    assert [int(result.as_numpy("I")[0]) for result in results[:3]] == [0, 1, 2]
    assert [len(r.get_response().raw_output_contents) for r in results] == [2, 2, 2, 0]


def test_a_decoupled_response_that_does_not_fit_ends_its_request(client: Any) -> None:
    """With the error, and only once."""
    answers: queue.Queue[Any] = queue.Queue()
    with region(client) as shared:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer(
            "count", [given("X", np.ones(1, np.float32))], outputs=[output("Y", shared.name, 3)]
        )
        error = answers.get(timeout=20)
        client.async_stream_infer(
            "count", [given("X", np.ones(1, np.float32))], outputs=[output("Y", shared.name, 4)]
        )
        following = answers.get(timeout=20)
        client.stop_stream()

    assert "shared memory size specified with the request for output 'Y' (3 bytes)" in str(error)
    assert isinstance(following, triton.InferResult)


# -- the rest of the server ----------------------------------------------------------------------


def test_what_is_in_regions_is_kept_for_nobody_else(client: Any) -> None:
    """Outputs in a region are always executed for; inputs there are compared by what was in
    them.
    """

    def ask(wanted: list[Any]) -> int:
        inputs = [
            tensor("X", [2], "FP32", shared.name, 8),
            given("S", np.array([b"t"], np.object_), "BYTES"),
        ]
        return int(client.infer("counted", inputs, outputs=wanted).as_numpy("N")[0])

    with region(client) as shared:
        calls = []
        for value in (1.0, 2.0, 1.0):
            shared.put(np.full(2, value, np.float32))
            calls.append(ask([output("N")]))
        placed = [ask([output("N"), output("Y", shared.name, 8, 8)]) for _ in range(2)]

    assert calls[1] == calls[0] + 1
    assert calls[2] == calls[0]
    assert placed == [calls[1] + 1, calls[1] + 2]


def test_metrics_tell_of_the_regions(running: Running, client: Any) -> None:
    """How many there are and how large, by kind."""
    with region(client, 100), region(client, 28):
        lines = running.server.metrics.render().decode().splitlines()

    assert 'penstock_shared_memory_regions{kind="system"} 2' in lines
    assert 'penstock_shared_memory_bytes{kind="system"} 128' in lines
    assert 'penstock_shared_memory_regions{kind="cuda"} 0' in lines


def test_the_extension_is_listed(client: Any) -> None:
    """That of CUDA only where there is CUDA."""
    from penstock_runtime.memory.cupy_driver import cuda_works

    extensions = client.get_server_metadata().extensions

    assert "system_shared_memory" in extensions
    assert ("cuda_shared_memory" in extensions) == cuda_works()


def test_a_response_says_its_times_beside_its_regions(client: Any) -> None:
    """Parameters of the response are as ever."""
    with region(client) as shared:
        result = client.infer(
            "held",
            [given("X", ONES)],
            outputs=[output("Y", shared.name, 16)],
            parameters={"penstock_timing": True, "penstock_typed_output": True},
        )

    response = result.get_response()
    assert response.parameters["penstock_batch_size"].int64_param == 1
    assert list(response.raw_output_contents) == [b""]


def test_clients_that_register_and_use_at_once_disturb_nobody(
    running: Running, client: Any
) -> None:
    """Each has its own region; whatever the others do, every answer is exact."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with triton.InferenceServerClient(running.target) as own:
                for _ in range(5):
                    with region(own, 32) as shared:
                        shared.put(ONES * number)
                        own.infer(
                            "held",
                            [tensor("X", [1, 4], "FP32", shared.name, 16)],
                            outputs=[output("Y", shared.name, 16, 16)],
                        )
                        found = shared.get(np.float32, 4, offset=16).tolist()
                        assert found == [2.0 * number] * 4
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
