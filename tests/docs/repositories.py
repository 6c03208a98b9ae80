"""What a reader of the documentation has on disk before the first command: models of other
servers, small and without heavy libraries.
"""

import json
import shutil
from pathlib import Path

from tests.runtime.mar_files import archive, members

TRAINED = Path(__file__).parents[1] / "llm" / "tiny_llm"
ADD_SUB = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        a = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        b = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
        outputs = [pb_utils.Tensor("OUTPUT0", a + b), pb_utils.Tensor("OUTPUT1", a - b)]
        return pb_utils.InferenceResponse(output_tensors=outputs)
"""
ADD_SUB_CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "INPUT1" data_type: TYPE_FP32 dims: [ -1 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ -1 ] }
]
dynamic_batching { }
"""
SCALE = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Scale(MLModel):
    async def predict(self, payload):
        x = payload.inputs[0]
        y = ResponseOutput(name="y", shape=x.shape, datatype="FP32", data=[2 * v for v in x.data])
        return InferenceResponse(model_name="scale", outputs=[y])
"""
MIRROR = """
def handle(data, context):
    if data is None:
        return None
    return [row["body"].decode()[::-1] for row in data]
"""


def triton_model(folder: Path) -> Path:
    """A model for Triton's Python backend in this folder."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(ADD_SUB)
    (folder / "config.pbtxt").write_text(ADD_SUB_CONFIG)
    return folder


def mlserver_model(folder: Path) -> Path:
    """A model of MLServer in this folder."""
    folder.mkdir(parents=True)
    (folder / "models.py").write_text(SCALE)
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    settings = {
        "name": "scale",
        "implementation": "models.Scale",
        "max_batch_size": 16,
        "max_batch_time": 0.001,
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return folder


def torchserve_archive(file: Path) -> Path:
    """An archive of TorchServe in this file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(archive(members(MIRROR)))
    return file


def language_model(folder: Path) -> Path:
    """A language model as Hugging Face has it in this folder."""
    return Path(shutil.copytree(TRAINED, folder))
