"""The calls of the demo as others would make them: tritonclient in Python, grpcurl in a shell."""

import base64
import json
import sys
from collections.abc import Sequence

from penstock.cli.terminal import Paint, heading
from penstock_runtime.datatype import AnyArray

_SERVICE = "inference.GRPCInferenceService"
_SENTENCE = "The river turns the wheel of the mill."

_PROMPT = "import os"

_HEAD = """\
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient({url!r})"""
_TRITONCLIENT = {
    "digits": """
image = triton.InferInput("IMAGE", [1, 8, 8], "FP32")
image.set_data_from_numpy(np.load({samples!r})["images"][:1])
print(client.infer("digits", [image]).as_numpy("CLASS"))""",
    "minilm": """
text = triton.InferInput("TEXT", [1, 1], "BYTES")
text.set_data_from_numpy(np.array([[{sentence!r}]], dtype=object))
print(client.infer("minilm", [text]).as_numpy("EMBEDDING").shape)""",
}
# Of whatever language model there is.
_GENERATE = """
prompt = triton.InferInput("text_input", [1], "BYTES")
prompt.set_data_from_numpy(np.array([{prompt!r}], dtype=object))
print(client.infer({model!r}, [prompt]).as_numpy("text_output")[0].decode())"""
_OTHERS = ("digits", "minilm", "repeat")


def print_calls(
    url: str,
    image: AnyArray,
    shown: Sequence[str],
    samples: str = "examples/repository/demo_digits.npz",
) -> None:
    """Print the calls of the models that were shown for two other clients; `image` is
    FP32[8, 8].
    """
    paint = Paint(sys.stdout)
    print(paint("\n" + heading("the same with tritonclient"), "bold"))
    print(_HEAD.format(url=url))
    for model in shown:
        code = _TRITONCLIENT.get(model, "" if model in _OTHERS else _GENERATE)
        if code:
            words = {"samples": samples, "sentence": _SENTENCE, "prompt": _PROMPT, "model": model}
            print(code.format(**words))
    print(paint("\n" + heading("the same with grpcurl"), "bold"))
    for method, request in requests(image, shown):
        print(grpcurl(url, method, request))


def requests(
    image: AnyArray, shown: Sequence[str] = _OTHERS
) -> list[tuple[str, dict[str, object]]]:
    """Method and request (as JSON has it) of a call of each of these models."""
    pixels = [int(value) for value in image.reshape(-1).tolist()]
    text, prompt = (base64.b64encode(t.encode()).decode() for t in (_SENTENCE, _PROMPT))
    inputs = {
        "digits": [_input("IMAGE", "FP32", [1, 8, 8], "fp32", pixels)],
        "minilm": [_input("TEXT", "BYTES", [1, 1], "bytes", [text])],
        "repeat": [
            _input("IN", "INT32", [3], "int", [1, 2, 4]),
            _input("DELAY", "UINT32", [3], "uint", [100, 100, 100]),
            _input("WAIT", "UINT32", [1], "uint", [0]),
        ],
    }
    write = [_input("text_input", "BYTES", [1], "bytes", [prompt])]
    unary = ("digits", "minilm")
    return [
        (
            "ModelInfer" if model in unary else "ModelStreamInfer",
            _request(model, *inputs.get(model, write)),
        )
        for model in shown
    ]


def grpcurl(url: str, method: str, request: dict[str, object]) -> str:
    """One call as a line for a shell; the server's reflection tells grpcurl the rest."""
    data = json.dumps(request, separators=(",", ":"))
    return f"grpcurl -plaintext -d '{data}' {url} {_SERVICE}/{method}"


def _request(model: str, *inputs: dict[str, object]) -> dict[str, object]:
    return {"model_name": model, "inputs": list(inputs)}


def _input(
    name: str, datatype: str, shape: list[int], field: str, values: list[int] | list[str]
) -> dict[str, object]:
    contents = {f"{field}_contents": values}
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}
