"""A server of its own collects garbage as suits it; one inside of a program leaves that be."""

import gc
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.running import ServerThread, options
from tests.server_process import server_process, write_model

from penstock import Client

MODEL = """
import gc
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        count = np.array([gc.get_freeze_count()], np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", count)]) for _ in requests]
"""


def frozen(url: str, model: str) -> int:
    """How many objects full collections pass over where the model executes."""
    with Client(url, timeout=10.0) as client:
        client.wait_ready(model, timeout=20.0)
        return int(client.infer(model, {"IN": np.zeros(1, np.float32)})["OUT"][0])


@pytest.mark.parametrize("flags", [(), ("--processes=2",)])
def test_what_is_loaded_is_passed_over_by_full_collections(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """In the server, in each of several, and in the process of a model that has its own."""
    write_model(tmp_path, "inside", MODEL)
    write_model(tmp_path, "apart", MODEL, "instance_group { kind: KIND_PROCESS }")
    with server_process(tmp_path, *flags) as server:
        address = server.address()
        counts = [frozen(address, name) for name in ("inside", "apart")]
        server.signal(signal.SIGTERM)

    assert min(counts) > 10_000


def test_a_program_with_a_server_inside_decides_for_itself(tmp_path: Path) -> None:
    """Its objects are not the server's to keep."""
    write_model(tmp_path, "inside", MODEL)
    before = gc.get_freeze_count()

    with ServerThread(options([tmp_path])) as running:
        counted = frozen(running.target, "inside")

    assert counted <= before
    assert gc.get_freeze_count() <= before
