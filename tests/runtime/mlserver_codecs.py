"""Laws of models that use more of MLServer than its messages, for an environment that has it.

`test_foreign_packages.py` runs them there; the file's name keeps them from being collected here.
"""

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from tests.runtime.mlserver_package import REAL
from tests.runtime.model_folders import context, run, source_of

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import InvalidArgument

HEADER = """
import numpy as np
import mlserver
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec, decode_args
from mlserver.types import InferenceResponse
"""


def test_the_package_is_the_real_one() -> None:
    """Nothing here is about a stand-in."""
    assert REAL


def write(root: Path, code: str, x: dict[str, Any], y: dict[str, Any]) -> ModelSource:
    directory = root / "m" / "1"
    directory.mkdir(parents=True)
    (directory / "models.py").write_text(HEADER + dedent(code))
    settings = {
        "implementation": "models.Mine",
        "inputs": [{"name": "x", "shape": [-1, 2], "datatype": "FP32", **x}],
        "outputs": [{"name": "y", "shape": [-1, 2], "datatype": "FP32", **y}],
        "parameters": {"extra": {"factor": 3}, "version": "v7"},
    }
    (directory / "model-settings.json").write_text(json.dumps(settings))
    return source_of(directory)


NUMBERS = np.array([[1, 2], [3, 4]], np.float32)


def test_decode_args_gives_arrays_and_takes_them(tmp_path: Path) -> None:
    """A predict that is written with plain arrays."""
    code = """
    class Mine(MLModel):
        @decode_args
        async def predict(self, x: np.ndarray) -> np.ndarray:
            return x.sum(axis=1, keepdims=True)
    """
    source = write(tmp_path, code, {}, {"name": "output-0", "shape": [-1, 1]})

    assert run(source, {"x": NUMBERS})["output-0"].tolist() == [[3], [7]]


def test_codecs_decode_and_encode_numbers(tmp_path: Path) -> None:
    """NumpyCodec both ways, with settings and their extra parameters."""
    code = """
    class Mine(MLModel):
        async def load(self) -> bool:
            self.factor = self.settings.parameters.extra["factor"]
            return True
        async def predict(self, payload):
            x = NumpyCodec.decode_input(payload.inputs[0])
            y = NumpyCodec.encode_output("y", x * np.float32(self.factor))
            return InferenceResponse(model_name=self.name, outputs=[y])
    """

    np.testing.assert_array_equal(
        run(write(tmp_path, code, {}, {}), {"x": NUMBERS})["y"], NUMBERS * 3
    )


def test_nan_survives_a_codec(tmp_path: Path) -> None:
    """mlserver writes it as None on the way."""
    code = """
    class Mine(MLModel):
        async def predict(self, payload):
            x = NumpyCodec.decode_input(payload.inputs[0])
            y = NumpyCodec.encode_output("y", x)
            return InferenceResponse(model_name=self.name, outputs=[y])
    """
    values = np.array([[np.nan, 1]], np.float32)

    np.testing.assert_array_equal(run(write(tmp_path, code, {}, {}), {"x": values})["y"], values)


def test_strings_go_through_the_string_codec(tmp_path: Path) -> None:
    """BYTES that the metadata calls text."""
    code = """
    class Mine(MLModel):
        async def predict(self, payload):
            words = self.decode(payload.inputs[0])
            y = StringCodec.encode_output("y", [word.upper() for word in words])
            return InferenceResponse(model_name=self.name, outputs=[y])
    """
    text = {"datatype": "BYTES", "shape": [-1, 1]}
    source = write(tmp_path, code, {**text, "parameters": {"content_type": "str"}}, text)
    words = np.array([["ä".encode()], [b"b"]], dtype=object)

    assert run(source, {"x": words})["y"].tolist() == [["Ä".encode()], [b"B"]]


@pytest.mark.parametrize("content_type", ["np", "pd"])
def test_the_content_type_of_a_request_chooses_its_codec(content_type: str, tmp_path: Path) -> None:
    """As the parameter content_type says: an array, or a table."""
    code = """
    class Mine(MLModel):
        async def predict(self, payload):
            kind = type(self.decode_request(payload)).__name__
            y = StringCodec.encode_output("y", [kind])
            return InferenceResponse(model_name=self.name, outputs=[y])
    """
    source = write(tmp_path, code, {"shape": [-1]}, {"datatype": "BYTES", "shape": [-1, 1]})
    asked = context(content_type=content_type)

    kind = run(source, {"x": NUMBERS[0]}, asked)["y"].tolist()

    assert kind == [[{"np": b"ndarray", "pd": b"DataFrame"}[content_type]]]


def test_a_parameter_of_a_wrong_type_is_the_callers_mistake(tmp_path: Path) -> None:
    """What mlserver's message refuses never reaches the model; `headers` is not the caller's."""
    code = """
    class Mine(MLModel):
        async def predict(self, payload):
            y = StringCodec.encode_output("y", [str(payload.parameters)])
            return InferenceResponse(model_name=self.name, outputs=[y])
    """
    source = write(tmp_path, code, {}, {"datatype": "BYTES", "shape": [-1, 1]})

    with pytest.raises(InvalidArgument, match="not of the type that mlserver expects"):
        run(source, {"x": NUMBERS}, context(content_type=3))
    assert run(source, {"x": NUMBERS}, context(headers="mine"))["y"].tolist() == [[b"None"]]


def test_a_model_knows_its_name_and_its_metrics(tmp_path: Path) -> None:
    """mlserver.log works in predict: the model's context is there."""
    code = """
    mlserver.register("penstock_probe", "A metric of a model.")
    class Mine(MLModel):
        async def predict(self, payload):
            mlserver.log(penstock_probe=1.0)
            y = StringCodec.encode_output("y", [self.name, str(self.version)])
            return InferenceResponse(model_name=self.name, outputs=[y])
    """
    source = write(tmp_path, code, {}, {"datatype": "BYTES", "shape": [-1, 1]})

    assert run(source, {"x": NUMBERS})["y"].tolist() == [[b"m"], [b"v7"]]
