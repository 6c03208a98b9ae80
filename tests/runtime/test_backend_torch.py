"""Laws of torch models: whatever form they are stored in, they answer as the module itself does,
and their weights are in memory once per device.
"""

import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.runtime.model_folders import context, executable, load, run, source_of
from tests.runtime.torch_folders import (
    MODULE,
    Net,
    Two,
    exported,
    module_folder,
    net,
    net_config,
    outputs,
    rows,
    script,
    tensors,
    version,
)

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.backends.host import PASSIVE_OPENMP, release_memory
from penstock_runtime.backends.torch_instance import TorchExecutable
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.tensor import to_host

FORMS = ["script", "exported", "module"]


def stored(form: str, root: Path, module: Net) -> ModelSource:
    if form == "script":
        return script(root, module, net_config())
    if form == "module":
        return module_folder(root, MODULE, module.state_dict())
    batch = torch.export.Dim("batch", min=1, max=16)
    source = exported(root, module, torch.zeros(2, 4), dynamic_shapes={"x": {0: batch}})
    return replace(source, config=net_config())


def direct(module: torch.nn.Module, *arrays: AnyArray) -> AnyArray:
    with torch.inference_mode():
        return to_host(module(*(torch.from_numpy(array) for array in arrays)))


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_is_that_of_the_module_itself(form: str, tmp_path: Path) -> None:
    """TorchScript, torch.export and safetensors give what calling the module gives."""
    module = net()
    source = stored(form, tmp_path, module)

    with executable(source) as made:
        answers = [cast(Executable, made).execute({"x": rows(n)}, [context()]) for n in (1, 2, 5)]

    for count, answer in zip((1, 2, 5), answers, strict=True):
        assert isinstance(answer["y"], torch.Tensor)
        assert not answer["y"].requires_grad
        np.testing.assert_array_equal(to_host(answer["y"]), direct(module, rows(count)))


@pytest.mark.parametrize("form", FORMS)
def test_instances_of_a_device_share_their_weights(form: str, tmp_path: Path) -> None:
    """However many start at once, the weights are loaded once and counted once."""
    _, loaded = load(stored(form, tmp_path, net()))
    made: list[TorchExecutable] = []

    def start(number: int) -> None:
        made.append(cast(TorchExecutable, loaded.executable(Placement(f"m_{number}"))))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    programs = [one.program for one in made]
    held = loaded.memory_bytes()
    for one in made:
        one.close()
    loaded.close()

    pointers = {tuple(t.data_ptr() for t in p.tensors) for p in programs if p is not None}
    assert len(programs) == 3
    assert len(pointers) == 1
    assert held == {"cpu": 4 * (4 * 3 + 3 + 3)}
    assert loaded.memory_bytes() == {}


@pytest.mark.parametrize("form", FORMS)
def test_a_closed_model_keeps_nothing(form: str, tmp_path: Path) -> None:
    """Once instances and model are closed and memory is returned, the weights are gone."""
    _, loaded = load(stored(form, tmp_path, net()))
    made = cast(TorchExecutable, loaded.executable(Placement("m_0")))
    made.execute({"x": rows(1)}, [context()])
    assert made.program is not None
    weights = [weakref.ref(tensor) for tensor in made.program.tensors]

    made.close()
    loaded.close()
    release_memory()

    assert weights
    assert not [weight for weight in weights if weight() is not None]


def test_a_program_of_torch_export_needs_no_configuration(tmp_path: Path) -> None:
    """Names, datatypes, dims and the batch dimension are the program's own."""

    class Named(torch.nn.Module):
        def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"total": ids.sum(1) * scale[:, 0], "twice": ids * 2}

    batch, length = torch.export.Dim("batch", max=32), torch.export.Dim("length", max=9)
    source = exported(
        tmp_path,
        Named(),
        torch.ones(3, 5, dtype=torch.int64),
        torch.ones(3, 2),
        dynamic_shapes={"ids": {0: batch, 1: length}, "scale": {0: batch}},
    )

    config, loaded = load(source)
    loaded.close()
    answer = run(source, {"ids": np.ones((2, 4), np.int64), "scale": np.ones((2, 2), np.float32)})

    assert config.backend == "pytorch"
    assert config.max_batch_size == 32
    assert config.dynamic_batching == DynamicBatching()
    assert config.input == (
        ModelInput("ids", DataType.INT64, (-1,)),
        ModelInput("scale", DataType.FP32, (2,)),
    )
    assert config.output == (
        ModelOutput("total", DataType.FP32, ()),
        ModelOutput("twice", DataType.INT64, (-1,)),
    )
    assert answer["total"].tolist() == [4.0, 4.0]


def test_a_program_without_a_common_first_dimension_is_not_batched(tmp_path: Path) -> None:
    """Static shapes are served as they are, and a batch size is refused."""
    source = exported(tmp_path, Two(), torch.zeros(2, 3), torch.zeros(2, 3))

    config, loaded = load(source)
    loaded.close()

    assert config.max_batch_size == 0
    assert config.input == tensors("a", "b", dims=(2, 3))
    assert config.output == outputs("OUTPUT__0", "OUTPUT__1", dims=(2, 3))
    with pytest.raises(InvalidArgument, match="without a first dimension that varies"):
        load(replace(source, config=ModelConfig(name="m", max_batch_size=2)))


def test_an_unbounded_batch_gets_tritons_default(tmp_path: Path) -> None:
    """Without a largest size the limit is 4."""
    dynamic = {"x": {0: torch.export.Dim("batch")}}
    source = exported(tmp_path, net(), torch.zeros(3, 4), dynamic_shapes=dynamic)

    config, loaded = load(source)
    loaded.close()

    assert config.max_batch_size == 4


def test_an_annotated_module_needs_no_configuration(tmp_path: Path) -> None:
    """The annotations of forward and @model are the configuration."""
    source = module_folder(tmp_path, MODULE, net().state_dict())

    config, loaded = load(source)
    loaded.close()

    assert (config.backend, config.max_batch_size) == ("pytorch", 8)
    assert config.input == tensors("x", dims=(4,))
    assert config.output == outputs("y", dims=(3,))


def test_a_module_without_weights_beside_it_is_a_torch_model_too(tmp_path: Path) -> None:
    """What counts is that the model is an nn.Module; `backend: python` overrules it."""
    directory = version(tmp_path)
    text = MODULE + "        \n    def predict(self, x: FP32[4]) -> FP32[4]:\n        return -x\n"
    (directory / "model.py").write_text(text)
    source = source_of(directory)

    config, loaded = load(source)
    made = loaded.executable(Placement("m_0"))
    made.close()
    loaded.close()
    plain = run(source, {"x": rows(2)}, backend="python")

    assert isinstance(made, TorchExecutable)
    assert config.backend == "pytorch"
    np.testing.assert_array_equal(plain["OUTPUT0"], -rows(2))


def test_torchscript_says_what_the_configuration_has_to_tell(tmp_path: Path) -> None:
    """The error names the inputs that the archive knows."""
    source = script(tmp_path, Two(), ModelConfig(name="m"))

    with pytest.raises(InvalidArgument, match=r'inputs \(a, b\) .* name: "a" data_type'):
        load(source)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("b", "a"), [-1.0, 2.0]),
        (("IN__1", "IN__0"), [-1.0, 2.0]),
        (("first", "second"), [1.0, 2.0]),
    ],
)
@pytest.mark.parametrize("form", ["script", "exported"])
def test_inputs_find_their_parameters_by_name_by_index_or_by_place(
    form: str, inputs: tuple[str, str], expected: list[float], tmp_path: Path
) -> None:
    """Equal names, else Triton's NAME__index, else the order of the configuration."""
    config = ModelConfig(
        name="m",
        input=tensors(*inputs, dims=(1,)),
        output=outputs("minus", "times", dims=(1,)),
    )
    if form == "script":
        source = script(tmp_path, Two(), config)
    else:
        source = replace(exported(tmp_path, Two(), torch.ones(1), torch.ones(1)), config=config)
    values = {inputs[0]: np.array([2.0], np.float32), inputs[1]: np.array([1.0], np.float32)}

    answer = run(source, values)

    assert [answer["minus"].item(), answer["times"].item()] == expected


@pytest.mark.parametrize("names", [("a", "z"), ("a",), ("x", "y", "z"), ("IN__0", "IN__7")])
def test_inputs_that_do_not_fit_the_parameters_are_refused(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    """The error shows both lists."""
    config = ModelConfig(name="m", input=tensors(*names, dims=(1,)), output=outputs("o", dims=(1,)))
    _, loaded = load(script(tmp_path, Two(), config))

    with pytest.raises(InvalidArgument, match=f"has the inputs {', '.join(names)}, but .*a, b"):
        loaded.executable(Placement("m_0"))
    loaded.close()


def test_outputs_are_picked_by_tritons_index(tmp_path: Path) -> None:
    """OUTPUT__1 is the second value, and the first need not be served."""
    config = ModelConfig(
        name="m",
        input=tensors("a", "b", dims=(1,)),
        output=outputs("OUTPUT__1", dims=(1,)),
    )
    source = script(tmp_path, Two(), config)

    answer = run(source, {"a": np.full(1, 3, np.float32), "b": np.full(1, 4, np.float32)})

    assert {name: value.tolist() for name, value in answer.items()} == {"OUTPUT__1": [12.0]}


def test_optional_inputs_keep_their_defaults(tmp_path: Path) -> None:
    """An input that a request leaves out is the parameter's default."""

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            return x if scale is None else x * scale

    inputs = (*tensors("x", dims=(2,)), ModelInput("scale", DataType.FP32, (2,), optional=True))
    config = ModelConfig(name="m", input=inputs, output=outputs("y", dims=(2,)))
    ones = np.ones(2, np.float32)

    with executable(script(tmp_path, Scaled(), config)) as made:
        plain = cast(Executable, made).execute({"x": ones}, [context()])["y"].tolist()
        scaled = cast(Executable, made).execute({"x": ones, "scale": ones * 3}, [context()])["y"]

    assert plain == [1.0, 1.0]
    assert scaled.tolist() == [3.0, 3.0]


# -- the process -----------------------------------------------------------------------------------


def test_torch_is_imported_by_the_first_torch_model_and_finds_passive_threads(
    tmp_path: Path,
) -> None:
    """Making the registry and recognising files leaves torch alone; loading prepares OpenMP."""
    source = script(tmp_path, net(), net_config())
    program = f"""
import os, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from dataclasses import replace
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config_reader import parse_json
from penstock_runtime.backends.base import ModelSource
directory = Path({str(source.directory)!r})
config = parse_json('''{{"name": "m", "input": [{{"name": "x", "data_type": "TYPE_FP32",
  "dims": [4]}}], "output": [{{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}}]}}''')
source = ModelSource(config, 1, directory, directory.parent)
backend = default_registry().find(source)
assert backend.name == "pytorch" and "torch" not in sys.modules
backend.load(source).close()
assert "torch" in sys.modules
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and os.environ["GOMP_SPINCOUNT"] == "0"
"""

    command = [sys.executable, "-c", program]
    bare = {key: value for key, value in os.environ.items() if key not in PASSIVE_OPENMP}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=bare)

    assert done.stderr == ""
    assert done.returncode == 0


def test_the_names_of_other_servers_for_torch_are_understood(tmp_path: Path) -> None:
    """backend torch or libtorch and platform pytorch_libtorch are all the same."""
    source = script(tmp_path, net(), net_config())
    answers: list[Any] = []

    for words in ({"backend": "torch"}, {"backend": "libtorch"}, {"platform": "pytorch_libtorch"}):
        config = net_config(**words)
        answers.append(run(replace(source, config=config), {"x": rows(1)})["y"].tolist())

    assert answers == [direct(net(), rows(1)).tolist()] * 3


def test_an_input_that_is_cast_arrives_as_the_datatype_that_it_was_cast_to(tmp_path: Path) -> None:
    """BF16 as torch's own, of the halves that a batch was put together of."""
    text = """
import torch
from penstock import FP32, model

@model(max_batch_size=4)
class Cast(torch.nn.Module):
    def forward(self, x: FP32[2]) -> FP32[2].named("y"):
        assert x.dtype is torch.bfloat16
        return x.float() * 2
"""
    source = module_folder(tmp_path, text, {})
    config = replace(source.config, parameters={"batch_cast": ModelParameter("x: BF16")})
    halves = np.array([[0x3F80, 0x4000]], np.uint16)

    with executable(replace(source, config=config)) as made:
        answer = cast(Executable, made).execute({"x": halves}, [context()])

    assert answer["y"].tolist() == [[2, 4]]
