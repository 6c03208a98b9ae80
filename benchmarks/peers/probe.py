"""Whether a server answers, and answers right: echoes what it is sent, streams it a hundred times,
computes what the model does. And the requests that the load is made of.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from benchmarks.peers.process import PeerError, Running

from penstock import Client, InferenceError
from penstock.client.channel import TLS
from penstock.client.retry import NO_RETRIES
from penstock.codec.request_encoder import encode_request
from penstock_runtime.datatype import AnyArray
from penstock_runtime.request import InferRequest
from penstock_runtime.tensor import tensor

READY_S = 120.0
RESPONSES = 100
WORDS = (
    "the a server answers many small requests in few full batches while text of every length "
    "waits for its turn and vectors of meaning return fast river gate turbine pipe flow"
)
_CALL_S = 10.0
_LOOK_S = 0.05


def matrix(shape: tuple[int, int]) -> AnyArray:
    """What every request of this shape carries."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def texts(count: int) -> list[bytes]:
    """So many texts of 6 to 40 words, the same ones each time."""
    random = Random(1)
    return [
        " ".join(random.choices(WORDS.split(), k=random.randint(6, 40))).encode()
        for _ in range(count)
    ]


def bodies(model: str, shape: tuple[int, int], count: int = 0) -> list[bytes]:
    """Serialised ModelInferRequests: one with a matrix, or one for each of so many texts."""
    inputs = [tensor("TEXT", np.array([[text]], object)) for text in texts(count)]
    if not count:
        inputs = [tensor("INPUT0", matrix(shape))]
    return [bytes(encode_request(InferRequest(model, (each,)))) for each in inputs]


def wait_until_right(
    server: Running, url: str, root: Path | None, models: Sequence[str]
) -> dict[str, AnyArray]:
    """What each model answers to its request, once the server does, in time. PeerError if the
    server ends, never answers, or does not give back what an echo has to.
    """
    tls = TLS(root_certificates=root) if root else None
    until = time.monotonic() + READY_S
    with Client(url, tls=tls, retries=NO_RETRIES, timeout=_CALL_S, transport="http2") as client:
        while True:
            server.check()
            try:
                return {model: _ask(client, model) for model in models}
            except InferenceError as error:
                if time.monotonic() > until:
                    raise PeerError(f"no answer after {READY_S:g} s: {error}") from None
            time.sleep(_LOOK_S)


def _ask(client: Client, model: str) -> AnyArray:
    if model == "embed":
        return client.infer(model, {"TEXT": np.array([texts(1)], object)})["EMBEDDING"]
    if model == "mlp":
        return client.infer(model, {"INPUT0": matrix((1, 784))})["OUTPUT0"]
    sent = {"INPUT0": matrix((1, 16))}
    if model == "echo":
        found = [client.infer(model, sent)["OUTPUT0"]]
    else:
        found = [each["OUTPUT0"] for each in client.stream(model, sent)]
        if len(found) != RESPONSES:
            raise PeerError(f"{model} gave {len(found)} responses, expected {RESPONSES}")
    if not all(np.array_equal(each, sent["INPUT0"]) for each in found):
        raise PeerError(f"{model} did not give back what it was sent")
    return found[0]
