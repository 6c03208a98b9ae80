"""Text from a language model as it is written, with Triton's client: one stream, several prompts.

python examples/clients/stream_tritonclient.py localhost:8001 tiny_llm "import os" "class Name"
"""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient


def texts(name: str, value: str) -> Any:
    """An input of one text."""
    tensor = grpcclient.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], dtype=object))
    return tensor


def main(url: str, model: str, *prompts: str) -> None:
    """Print what each prompt goes on with, once all are complete."""
    answers: queue.Queue[Any] = queue.Queue()
    found = dict.fromkeys(prompts, "")
    with grpcclient.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        for prompt in prompts:
            sampling = json.dumps({"max_tokens": 32, "temperature": 0.7, "seed": 1})
            inputs = [texts("text_input", prompt), texts("sampling_parameters", sampling)]
            client.async_stream_infer(model, inputs, request_id=prompt)
        left = len(prompts)
        while left:
            result = answers.get()
            if isinstance(result, Exception):
                raise result
            response = result.get_response()
            piece = result.as_numpy("text_output")
            if piece is not None:
                found[response.id] += piece[0].decode()
            left -= response.parameters["triton_final_response"].bool_param
        client.stop_stream()
    for prompt, text in found.items():
        print(f"--- {prompt}{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
