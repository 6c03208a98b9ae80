"""Our own client uses regions of a server, blocking and asyncio, on each transport."""

import asyncio
import os
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS

from penstock import AsyncClient, Client, DataType, InferenceError, Place, Tensor
from penstock_runtime.errors import Status

SHAPE = (1, 16)


def numbers(memory: SharedMemory, start: int) -> list[int]:
    """Sixteen numbers that are there."""
    assert memory.buf is not None
    found: list[int] = np.frombuffer(bytes(memory.buf[start : start + 64]), np.int32).tolist()
    return found


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server that lets clients share memory, on each transport."""
    with ServerThread(options([MODELS], allow_client_shm=True, transport=request.param)) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """128 bytes: sixteen numbers, and room for as many."""
    made = SharedMemory(f"penstock_client_{os.getpid()}", create=True, size=128)
    assert made.buf is not None
    made.buf[:64] = np.arange(16, dtype=np.int32).tobytes()
    yield made
    made.close()
    made.unlink()


def test_a_region_is_registered_used_listed_and_forgotten(
    running: Running, memory: SharedMemory
) -> None:
    """An input is a Tensor at a Place; an output is where the mapping says; others are in the
    message.
    """
    x = Tensor("INPUT0", DataType.INT32, SHAPE, Place("r", 64))
    ones = np.ones(SHAPE, np.int32)
    with Client(running.target, transport="grpcio") as client:
        client.register_shared_memory("r", memory.name, 128)
        listed = client.shared_memory()
        wanted = {"OUTPUT0": Place("r", 64, 64), "OUTPUT1": None}

        result = client.infer("simple", {"INPUT0": x, "INPUT1": ones}, outputs=wanted)

        with pytest.raises(KeyError, match="output 'OUTPUT0' is in shared memory region 'r'"):
            result["OUTPUT0"]
        client.unregister_shared_memory("r")
        with pytest.raises(InferenceError) as gone:
            client.shared_memory("r")
    assert (listed["r"].key, listed["r"].byte_size) == (memory.name, 128)
    assert result.tensor("OUTPUT0") == Tensor("OUTPUT0", DataType.INT32, SHAPE, Place("r", 64, 64))
    assert numbers(memory, 64) == list(range(1, 17))
    assert result["OUTPUT1"].tolist() == [list(range(-1, 15))]
    assert gone.value.status is Status.NOT_FOUND


def test_the_asyncio_client_does_the_same(running: Running, memory: SharedMemory) -> None:
    """Method for method, streams included."""

    async def main() -> tuple[bool, list[int]]:
        async with AsyncClient(running.target, transport="http2") as client:
            await client.register_shared_memory("a", memory.name, 64)
            await client.register_shared_memory("b", memory.name, 64, 64)
            inputs = {
                name: Tensor(name, DataType.INT32, SHAPE, Place("a", 64))
                for name in ("INPUT0", "INPUT1")
            }
            async with client.stream(
                "simple", inputs, outputs={"OUTPUT0": Place("b", 64)}
            ) as answers:
                sizes = [r.tensor("OUTPUT0").array.byte_size async for r in answers]
            listed = sorted(await client.shared_memory())
            await client.unregister_shared_memory()
            return listed == ["a", "b"] and not await client.shared_memory(), sizes

    all_listed, sizes = asyncio.run(main())

    assert all_listed
    assert sizes == [64]
    assert numbers(memory, 64) == list(range(0, 32, 2))
