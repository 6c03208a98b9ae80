"""The calls of the demo as others would make them: tritonclient in Python, grpcurl in a shell."""

import base64
import json
import sys

from penstock.cli.terminal import Paint, heading
from penstock_runtime.datatype import AnyArray

_SERVICE = "inference.GRPCInferenceService"
_SENTENCE = "The river turns the wheel of the mill."

_TRITONCLIENT = """\
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient({url!r})
image = triton.InferInput("IMAGE", [1, 8, 8], "FP32")
image.set_data_from_numpy(np.load({samples!r})["images"][:1])
print(client.infer("digits", [image]).as_numpy("CLASS"))

text = triton.InferInput("TEXT", [1, 1], "BYTES")
text.set_data_from_numpy(np.array([[{sentence!r}]], dtype=object))
print(client.infer("minilm", [text]).as_numpy("EMBEDDING").shape)"""


def print_calls(
    url: str, image: AnyArray, samples: str = "examples/repository/demo_digits.npz"
) -> None:
    """Print the same calls for two other clients; `image` is FP32[8, 8]."""
    paint = Paint(sys.stdout)
    print(paint("\n" + heading("the same with tritonclient"), "bold"))
    print(_TRITONCLIENT.format(url=url, samples=samples, sentence=_SENTENCE))
    print(paint("\n" + heading("the same with grpcurl"), "bold"))
    for method, request in requests(image):
        print(grpcurl(url, method, request))


def requests(image: AnyArray) -> list[tuple[str, dict[str, object]]]:
    """Method and request (as JSON has it) of each call of the demo."""
    pixels = [int(value) for value in image.reshape(-1).tolist()]
    text = base64.b64encode(_SENTENCE.encode()).decode()
    return [
        ("ModelInfer", _request("digits", _input("IMAGE", "FP32", [1, 8, 8], "fp32", pixels))),
        ("ModelInfer", _request("minilm", _input("TEXT", "BYTES", [1, 1], "bytes", [text]))),
        (
            "ModelStreamInfer",
            _request(
                "repeat",
                _input("IN", "INT32", [3], "int", [1, 2, 4]),
                _input("DELAY", "UINT32", [3], "uint", [100, 100, 100]),
                _input("WAIT", "UINT32", [1], "uint", [0]),
            ),
        ),
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
