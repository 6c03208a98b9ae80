"""Inference with the clients, against a server on the loopback."""

import asyncio
import inspect
import math
from typing import Any

import grpc
import numpy as np
import pytest
from tests.server.client_driver import Driver, Ended
from tests.server.fake_server import FakeServer, failing

from penstock.client.aio import AsyncClient
from penstock.client.errors import PUSHBACK, InferenceError
from penstock.client.retry import RetryPolicy
from penstock.client.sync import Client
from penstock_runtime.datatype import DataType, bf16_to_float32, float32_to_bf16
from penstock_runtime.errors import InvalidArgument, Status
from penstock_runtime.tensor import Tensor

pytestmark = pytest.mark.usefixtures("transport")


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    """Whoever knows one client knows the other."""
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            twin = inspect.signature(getattr(AsyncClient, name))
            assert list(twin.parameters) == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(4, dtype=np.int8)[::2],
        np.array([True, False]),
        np.float64(3.5).reshape(()),
        np.zeros((0, 3), np.uint16),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_arrays_come_back_as_they_went(driver: Driver, value: Any) -> None:
    """Datatype, shape and values of an array survive the way there and back."""
    result = driver.infer("echo", {"X": value})

    assert result["X"].dtype == value.dtype
    np.testing.assert_array_equal(result["X"], value)


def test_text_and_bytes_come_back_exactly(driver: Driver) -> None:
    """BYTES elements keep their zero bytes, and text is UTF-8."""
    result = driver.infer("echo", {"T": [["grün"], ["b"]], "B": [b"\0a\0", b""]})

    assert result.tensor("T").shape == (2, 1)
    assert result.texts("T") == ["grün", "b"]
    assert result["B"].tolist() == [b"\0a\0", b""]


def test_bf16_is_sent_as_halves_and_read_as_float32(driver: Driver) -> None:
    """A BF16 tensor is given by its halves and comes back widened."""
    halves = float32_to_bf16(np.array([1.5, -2.0], np.float32))

    result = driver.infer("echo", {"X": Tensor("", DataType.BF16, (2,), halves)})

    assert result.tensor("X").datatype is DataType.BF16
    np.testing.assert_array_equal(result["X"], bf16_to_float32(halves))


def test_a_ragged_sequence_of_text_is_refused_before_it_is_sent(
    driver: Driver, fake: FakeServer
) -> None:
    """What cannot be a tensor is an error that names the input."""
    with pytest.raises(InvalidArgument, match="input 'X' mixes text"):
        driver.infer("echo", {"X": [["a", "b"], ["c"]]})

    assert not fake.calls


def test_the_result_is_a_mapping_that_knows_its_origin(driver: Driver) -> None:
    """Outputs by name; id, model, version and parameters beside them."""
    result = driver.infer("m", {"X": [1, 2]}, id="r1", parameters={"temperature": 0.5})

    assert list(result) == ["X"]
    assert len(result) == 1
    assert (result.id, result.model_name, result.model_version) == ("r1", "m", "7")
    assert result.parameters["temperature"] == 0.5
    assert result.timing is None


def test_timing_is_read_off_the_parameters(driver: Driver) -> None:
    """What the server says of its phases becomes nanoseconds."""
    told = {"penstock_total_us": 9, "penstock_queue_us": 4, "penstock_batch_size": 3}

    result = driver.infer("m", {"X": [1]}, parameters=told)

    assert result.timing is not None
    assert (result.timing.queue_ns, result.timing.batch_size) == (4000, 3)


def test_every_call_has_a_deadline_unless_told_otherwise(driver: Driver, fake: FakeServer) -> None:
    """The default travels with the call, a call's own goes before it, math.inf means none."""
    remaining = []
    for timeout in (None, 5.0, math.inf):
        driver.infer("echo", {"X": [1]}, timeout=timeout)
        remaining.append(fake.time_remaining)

    # gRPC rounds a deadline up to its own units.
    assert remaining[0] is not None
    assert remaining[1] is not None
    assert remaining[1] < 6 < remaining[0] < 21
    assert remaining[2] is None or remaining[2] > 1e9


def test_a_large_message_passes(driver: Driver) -> None:
    """gRPC's 4 MB limit does not apply."""
    value = np.zeros(6 << 20, np.uint8)

    result = driver.infer("echo", {"X": value})

    assert result["X"].nbytes == value.nbytes


def test_unavailable_is_sent_again_until_it_works(driver: Driver, fake: FakeServer) -> None:
    """Two refusals are waited out as the server asks."""
    fake.unary["ModelInfer"] = failing(grpc.StatusCode.UNAVAILABLE, "busy", 2, (PUSHBACK, "30"))

    result = driver.infer("echo", {"X": [1]})

    assert result["X"].tolist() == [1]
    assert fake.calls["ModelInfer"] == 3
    assert driver.slept == [0.03, 0.03]


def test_other_errors_are_the_answer_at_once(driver: Driver, fake: FakeServer) -> None:
    """A wrong request is not sent again; its status and text are the error's."""
    fake.unary["ModelInfer"] = failing(grpc.StatusCode.INVALID_ARGUMENT, "wrong shape")

    with pytest.raises(InferenceError) as raised:
        driver.infer("echo", {"X": [1]})

    assert raised.value.status is Status.INVALID_ARGUMENT
    assert raised.value.message == "wrong shape"
    assert fake.calls["ModelInfer"] == 1


def test_attempts_end_where_the_policy_says(
    client_kind: str, runner: asyncio.Runner, fake: FakeServer
) -> None:
    """The last refusal is the answer."""
    driver = Driver(client_kind, runner, target=fake.address, retries=RetryPolicy(attempts=2))
    fake.unary["ModelInfer"] = failing(grpc.StatusCode.UNAVAILABLE, "busy")

    with pytest.raises(InferenceError, match="UNAVAILABLE: busy"):
        driver.infer("echo", {"X": [1]})

    assert fake.calls["ModelInfer"] == 2
    driver.close()


def test_control_calls_are_never_repeated(driver: Driver, fake: FakeServer) -> None:
    """A load may have happened although its answer was lost."""
    fake.unary["RepositoryModelLoad"] = failing(grpc.StatusCode.UNAVAILABLE, "polling")

    with pytest.raises(InferenceError, match="polling"):
        driver.load("m")

    assert fake.calls["RepositoryModelLoad"] == 1


def test_the_deadline_ends_a_call_that_hangs(driver: Driver, fake: FakeServer) -> None:
    """A server that does not answer costs no more than the timeout."""
    ended = Ended()

    def hang(_: bytes, context: Any) -> bytes:
        context.add_callback(ended.set)
        ended.wait(10)
        return b""

    fake.unary["ModelInfer"] = hang

    with pytest.raises(InferenceError) as raised:
        driver.infer("echo", {"X": [1]}, timeout=0.05)

    assert raised.value.status is Status.DEADLINE_EXCEEDED


def test_metadata_goes_with_every_call(
    client_kind: str, runner: asyncio.Runner, fake: FakeServer
) -> None:
    """What the client was given is sent, on streams as well."""
    driver = Driver(client_kind, runner, target=fake.address, metadata={"x-tenant": "blue"})

    driver.infer("echo", {"X": [1]})
    unary = fake.metadata["x-tenant"]
    driver.collect("echo", {"X": [1]})

    assert (unary, fake.metadata["x-tenant"]) == ("blue", "blue")
    driver.close()


def test_an_answer_that_cannot_be_read_is_an_error_of_the_call(
    driver: Driver, fake: FakeServer
) -> None:
    """Bytes that are no message do not reach the caller as another exception."""
    fake.unary["ModelInfer"] = lambda *_: b"\x0a\xff"

    with pytest.raises(InferenceError, match="ModelInfer cannot be read"):
        driver.infer("echo", {"X": [1]})


def test_nobody_there_is_unavailable(client_kind: str, runner: asyncio.Runner) -> None:
    """A refused connection is an InferenceError as well."""
    driver = Driver(client_kind, runner, target="127.0.0.1:1", retries=RetryPolicy(attempts=2))

    with pytest.raises(InferenceError) as raised:
        driver.server_live()

    assert raised.value.status is Status.UNAVAILABLE
    driver.close()
