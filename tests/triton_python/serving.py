"""The folders of Triton models, and requests to them by Triton's own client."""

import queue
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

MODELS = Path(__file__).parent / "models"
TYPES = {"float32": "FP32", "int32": "INT32", "object": "BYTES", "bool": "BOOL"}


def tensors(inputs: dict[str, Any]) -> list[Any]:
    """Inputs by name as the client wants them; BF16 is given as (its halves,)."""
    made = []
    for name, values in inputs.items():
        if isinstance(values, tuple):
            tensor = triton.InferInput(name, list(values[0].shape), "BF16")
            # The client takes bfloat16 only by the type of a library that nobody else needs.
            tensor._raw_content = values[0].tobytes()
        else:
            tensor = triton.InferInput(name, list(values.shape), TYPES[values.dtype.name])
            tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


def ask(client: Any, model: str, inputs: dict[str, Any], **more: Any) -> Any:
    """The answer of a model."""
    outputs = [triton.InferRequestedOutput(name) for name in more.pop("outputs", ())]
    return client.infer(model, tensors(inputs), outputs=outputs or None, **more)


class Stream:
    """The responses of one stream, in the order in which they come."""

    def __init__(self, client: Any, **more: Any) -> None:
        self.client = client
        self.found: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: self.found.put((result, error)), **more)

    def send(self, model: str, inputs: dict[str, Any], **more: Any) -> None:
        """Send a request that also asks for its empty last response."""
        more = {"enable_empty_final_response": True, **more}
        self.client.async_stream_infer(model, tensors(inputs), **more)

    def next(self) -> tuple[Any, Any]:
        """The next response, or an error."""
        found: tuple[Any, Any] = self.found.get(timeout=20)
        return found

    def until_final(self) -> list[Any]:
        """The responses up to the one that says that it is the last, which has to come."""
        responses = []
        while True:
            result, error = self.next()
            assert error is None, error
            responses.append(result)
            if result.get_response().parameters["triton_final_response"].bool_param:
                return responses


def text(word: str) -> Any:
    """One string."""
    return np.array([word.encode()], dtype=np.object_)
