"""What several have is changed by none: callers, called models, steps of an ensemble."""

from pathlib import Path

import numpy as np
import pytest
from tests.triton_python.house import PLAIN, House, house

from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

# Answers with what it was given, after it has called a model that may write there.
CALLER = """
class TritonPythonModel:
    def execute(self, requests):
        return [self._call(request) for request in requests]

    def _call(self, request):
        array = np.array(value(request))
        answered = call("inner", array).exec()
        assert not answered.has_error(), answered.error().message()
        assert answered.output_tensors()[0].as_numpy()[0] == array[0] + 1
        return answer(array)
"""
WAYS = {
    "numpy": "array = value(request); array += 1",
    "from_numpy": "import torch; array = torch.from_numpy(value(request)); array += 1",
    "from_dlpack": "import torch; array = torch.from_dlpack(given(request)); array += 1",
    "capsule": "import torch; array = torch.from_dlpack(given(request).to_dlpack()); array += 1",
    "of_numpy": "import torch; array = torch.from_dlpack(value(request)); array += 1",
    "another": 'array = pb_utils.Tensor.from_dlpack("Z", given(request)).as_numpy(); array += 1',
    "export": """import importlib
            array = importlib.import_module("torch").from_dlpack(given(request))
            array += 1""",
}
WRITES = """
{imports}
def given(request):
    return pb_utils.get_input_tensor_by_name(request, "X")

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            {way}
            answers.append(answer(array))
        return answers
"""


def ways(way: str) -> str:
    """A model that writes into its input in this way."""
    imports = "import torch" if "import torch" in WAYS[way] else ""
    return WRITES.format(imports=imports, way=WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_is_called_changes_nothing_of_its_caller(tmp_path: Path, way: str) -> None:
    """However it writes: also by torch, which asks nobody."""
    pytest.importorskip("torch")
    with house(tmp_path, outer=CALLER, inner=ways(way)) as made:
        assert [made.number("outer", 1.0), made.number("outer", 1.0)] == [1.0, 1.0]


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_changes_nothing_of_the_model_that_it_called(tmp_path: Path, way: str) -> None:
    """The outputs that it got are the other's; it may write to its copies."""
    pytest.importorskip("torch")
    inner = """
    KEPT = np.zeros(1, np.float32)
    class TritonPythonModel:
        def execute(self, requests):
            return [answer(KEPT) for request in requests]
    """
    outer = ways(way).replace("def given(request):", OUTPUT_OF).replace("value(", "seen(")
    with house(tmp_path, outer=outer, inner=inner) as made:
        answers = [made.number("outer", 1.0), made.number("outer", 1.0)]

        assert answers == [1.0, 1.0]
        assert made.number("inner", 1.0) == 0.0


OUTPUT_OF = """
def seen(request):
    return given(request).as_numpy()

def given(request):
    array = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
    return call("inner", array).exec().output_tensors()[0]

def unused(request):"""


@pytest.mark.parametrize("way", ["numpy", "from_numpy", "export"])
def test_a_step_of_an_ensemble_changes_nothing_of_the_others(tmp_path: Path, way: str) -> None:
    """A later step on the same input sees what came, and so does the caller."""
    pytest.importorskip("torch")
    steps = """
    platform: "ensemble"
    input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
    output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
    ensemble_scheduling { step [
      { model_name: "writer" model_version: -1
        input_map { key: "X" value: "X" } output_map { key: "Y" value: "WRITTEN" } },
      { model_name: "both" model_version: -1
        input_map { key: "X" value: "X" } input_map { key: "Z" value: "WRITTEN" }
        output_map { key: "Y" value: "Y" } } ] }
    """
    both = """
    class TritonPythonModel:
        def execute(self, requests):
            return [answer([value(r)[0], value(r, "Z")[0]]) for r in requests]
    """
    second = PLAIN + 'input [ { name: "Z" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
    with house(tmp_path, writer=ways(way), both=(both, second), e=("", steps)) as made:
        message = np.array([1.0], np.float32).tobytes()
        (response,) = sent(made, "e", np.frombuffer(message, np.float32))

        assert response.tolist() == [1.0, 2.0]
        assert message == np.array([1.0], np.float32).tobytes()


def sent(made: House, model: str, array: np.ndarray) -> list[np.ndarray]:
    """The first outputs of the answers to a request with this array."""
    stream = ResponseStream()
    made.core.infer(InferRequest(model, (tensor("X", array),)), stream)
    return [response.outputs[0].numpy() for response in stream.collect(20)]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("read", ["from_numpy(value(each))", "from_dlpack(given(each))"])
def test_torch_reads_a_message_where_it_is(tmp_path: Path, read: str) -> None:
    """A message belongs to its one request: what came in goes out, without a copy."""
    pytest.importorskip("torch")
    text = f"""
    import torch
    def given(request):
        return pb_utils.get_input_tensor_by_name(request, "X")

    class TritonPythonModel:
        def execute(self, requests):
            tensors = [torch.{read} for each in requests]
            return [
                pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("Y", t)]) for t in tensors
            ]
    """
    array = np.frombuffer(memoryview(bytes(4000)), np.float32)
    with house(tmp_path, m=text) as made:
        (found,) = sent(made, "m", array)

        assert np.shares_memory(found, array)


def test_what_torch_may_have_changed_is_not_executed_again(tmp_path: Path) -> None:
    """What went out by DLPack may not be what came any more: an error, not a wrong sum."""
    pytest.importorskip("torch")
    text = """
    import torch
    class TritonPythonModel:
        def execute(self, requests):
            given = pb_utils.get_input_tensor_by_name(requests[0], "X")
            array = torch.from_dlpack(given)
            array += 1
            seen = given.as_numpy()
            seen += 1
            return [answer(seen)]
    """
    with house(tmp_path, m=text) as made:
        with pytest.raises(PenstockError, match="read-only"):
            sent(made, "m", np.frombuffer(bytes(4), np.float32))

        (found,) = sent(made, "m", np.frombuffer(bytes(4), np.float32))

        assert found.tolist() == [2.0]
