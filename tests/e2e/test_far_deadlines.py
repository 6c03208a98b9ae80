"""A deadline that is centuries away is a deadline like any other."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.running import ServerThread, options
from tests.http2.raw import RawClient, eventually
from tests.transports import TRANSPORTS

from penstock import AsyncClient, InferenceError
from penstock.client.retry import NO_RETRIES
from penstock_protos import inference

CODE = """import time
from typing import Any
from penstock import FP32, model

@model(batching={batching})
class Held:
    def load(self, args):
        self.go = args.root.parent / "go"

    def predict(self, X: FP32[1]) -> FP32[1]:
        while not self.go.exists():
            time.sleep(0.005)
        return X
"""
POLICY = {"default_queue_policy": {"default_timeout_microseconds": 100_000}}
INFER = "/inference.GRPCInferenceService/ModelInfer"
X = {"X": np.ones(1, np.float32)}


def write_model(root: Path, name: str, batching: object) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(CODE.replace("{batching}", repr(batching)))


def request(name: str) -> bytes:
    tensor = inference.ModelInferRequest.InferInputTensor(name="X", datatype="FP32", shape=[1])
    message = inference.ModelInferRequest(
        model_name=name, inputs=[tensor], raw_input_contents=[X["X"].tobytes()]
    )
    return message.SerializeToString()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_queues_expire_after_a_call_with_the_longest_timeout(
    tmp_path: Path, transport: str
) -> None:
    """Of the protocol's; on every transport, and that call is answered too."""
    write_model(tmp_path, "patient", True)
    write_model(tmp_path, "hasty", POLICY)
    served = ServerThread(options([tmp_path], transport=transport))

    with served as running, RawClient(running.target) as client:
        client.start()
        client.request(1, request("patient"), INFER, (b"grpc-timeout", b"99999999H"))
        patient = running.server.core.model("patient")
        eventually(lambda: patient.unanswered == 1, "the call with the far deadline is inside")
        expired = asyncio.run(expiry(running.target))
        (tmp_path / "go").touch()
        answer = client.answer(1)

    assert "timeout expired" in str(expired)
    assert answer.status == 0, answer


async def expiry(target: str) -> InferenceError:
    """What a request gets that waits longer than its queue allows."""
    async with AsyncClient(target, retries=NO_RETRIES, timeout=60) as client:
        blocker = asyncio.create_task(client.infer("hasty", X))
        await asyncio.sleep(0.05)
        with pytest.raises(InferenceError) as caught:
            await client.infer("hasty", X, timeout=20)
        blocker.cancel()
    return caught.value
