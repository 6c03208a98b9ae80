"""A model that finds no memory left, over gRPC: its caller is told so and may try with less, and
whoever is in the same batch is answered; in the server and in a process of the model's own.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.running import ServerThread, options

from penstock import Client, InferenceError
from penstock.client.retry import NO_RETRIES
from penstock_runtime.errors import Status

CODE = """
import numpy as np
import torch
from penstock import FP32, model

@model(max_batch_size=8)
def predict(X: FP32[1]) -> FP32[1].named("Y"):
    if X.max() > 9:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB. GPU 0 has")
    if X.max() > 5:
        raise MemoryError("Unable to allocate 2.00 TiB for an array")
    return X * 2
"""
CONFIG = """
backend: "python"
instance_group [ {{ kind: {kind} }} ]
dynamic_batching {{ preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 200000 }}
"""


def asked(client: Client, value: float) -> Any:
    """The answer, or the error's status, reason and text."""
    try:
        return float(client.infer("greedy", {"X": np.full((1, 1), value, np.float32)})["Y"][0, 0])
    except InferenceError as error:
        return error.status, error.reason, "TiB" in str(error)


@pytest.mark.parametrize("kind", ["KIND_CPU", "KIND_PROCESS"])
def test_no_memory_left_is_told_to_whom_it_concerns(tmp_path: Path, kind: str) -> None:
    (tmp_path / "greedy" / "1").mkdir(parents=True)
    (tmp_path / "greedy" / "config.pbtxt").write_text(CONFIG.format(kind=kind))
    (tmp_path / "greedy" / "1" / "model.py").write_text(CODE)

    with (
        ServerThread(options([tmp_path])) as running,
        Client(running.target, retries=NO_RETRIES) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        found = list(pool.map(lambda value: asked(client, value), (1, 10, 6)))
        later = asked(client, 2)

    exhausted = (Status.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", False)
    assert found == [2, exhausted, exhausted]
    assert later == 4
