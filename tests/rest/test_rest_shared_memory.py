"""Shared memory over HTTP: simple_http_shm_client, and what is refused."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from tests.e2e.running import MODELS, ServerThread
from tests.rest.serving import address, http_options
from tritonclient.utils import InferenceServerException

NUMBERS, ONES = np.arange(16, dtype=np.int32), np.ones(16, np.int32)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a server that lets clients share memory."""
    with ServerThread(http_options([MODELS], allow_client_shm=True)) as running:
        with triton.InferenceServerClient(address(running)) as made:
            yield made
        assert running.server.services.copies.used == 0
        assert running.server.services.regions.open_regions == 0


@pytest.fixture
def region(client: Any) -> Iterator[Any]:
    """A registered region of 256 bytes with two rows of numbers."""
    key = f"/penstock_rest_{os.getpid()}"
    handle = shm.create_shared_memory_region("r", key, 256)
    shm.set_shared_memory_region(handle, [NUMBERS, ONES])
    client.register_system_shared_memory("r", key, 256)
    yield handle
    client.unregister_system_shared_memory()
    shm.destroy_shared_memory_region(handle)


def inputs() -> list[Any]:
    """Both inputs of `simple`, in the region."""
    made = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    made[0].set_shared_memory("r", 64)
    made[1].set_shared_memory("r", 64, offset=64)
    return made


def test_numbers_go_and_come_through_a_region(client: Any, region: Any) -> None:
    """An output in the region has no data in the answer; one beside it has, binary or not."""
    for binary in (True, False):
        placed = triton.InferRequestedOutput("OUTPUT0", binary_data=binary)
        placed.set_shared_memory("r", 64, offset=128)
        wanted = [placed, triton.InferRequestedOutput("OUTPUT1", binary_data=binary)]

        result = client.infer("simple", inputs(), outputs=wanted)

        assert shm.get_contents_as_numpy(region, np.int32, [16], offset=128).tolist() == (
            (NUMBERS + ONES).tolist()
        )
        assert result.as_numpy("OUTPUT1").tolist() == [(NUMBERS - ONES).tolist()]
        assert result.get_output("OUTPUT0") == {
            "name": "OUTPUT0",
            "datatype": "INT32",
            "shape": [1, 16],
            "parameters": {
                "shared_memory_region": "r",
                "shared_memory_byte_size": 64,
                "shared_memory_offset": 128,
            },
        }
    status = client.get_system_shared_memory_status()
    assert [(found["name"], int(found["byte_size"])) for found in status] == [("r", 256)]


def test_a_region_that_is_not_there_is_not_found(client: Any) -> None:
    """With the text that gRPC has."""
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'r'"):
        client.infer("simple", inputs())
