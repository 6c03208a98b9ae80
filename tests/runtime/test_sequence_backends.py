"""Models in penstock's own API and in torch name controls and states as they name inputs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.model_folders import load, write_model
from tests.runtime.sequence_fakes import ask, control

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import SequenceBatching, SequenceState
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.execution_sequence import StepPlan
from penstock_runtime.scheduling.sequence import LiveSequence, Step, Turn

RULES = SequenceBatching(
    control_input=(control("START"),),
    state=(SequenceState("sum_in", "sum_out", DataType.FP32, (1,)),),
)
CONFIG = ModelConfig(name="m", max_batch_size=4, sequence_batching=RULES)

ANNOTATED = """
class Model:
    def predict(self, x: FP32[1], START: INT32[1], sum_in: FP32[1]) -> Out:
        total = x + sum_in
        return {"y": total, "sum_out": total}

class Out(TypedDict):
    y: FP32[1]
    sum_out: FP32[1]
"""
# The class of the answer has to come first.
ANNOTATED = ANNOTATED[ANNOTATED.index("class Out") :] + ANNOTATED[: ANNOTATED.index("class Out")]
TORCH = """
import torch

class Model(torch.nn.Module):
    def forward(self, x, START, sum_in):
        assert START.dtype is torch.int32
        total = x + sum_in
        return {"y": total, "sum_out": total}
"""


def with_tensors(config: ModelConfig) -> ModelConfig:
    """The configuration with the tensors of clients."""
    return replace(
        config,
        input=(ModelInput("x", DataType.FP32, (1,)),),
        output=(ModelOutput("y", DataType.FP32, (1,)),),
    )


def sums(source: ModelSource) -> tuple[ModelConfig, list[float]]:
    """The completed configuration, and the answers to three steps of one sequence."""
    config, loaded = load(source)
    assert config.sequence_batching is not None
    plan = StepPlan(config, config.sequence_batching, source.root)
    made = loaded.executable(Placement("m_0"))
    assert isinstance(made, Executable)
    sequence, answers = LiveSequence(1, 1, 0), []
    for number in range(3):
        pending = ask(1)
        pending.arrays = {"x": np.full((1, 1), number + 1, np.float32)}
        step = Step((Turn(pending, sequence, start=number == 0, end=False),))
        inputs = plan.inputs(step)
        outputs: Any = made.execute(inputs, [])
        plan.states.keep(step, inputs, outputs)
        (part,) = plan.parts(step, outputs)
        answers.append(float(part["y"][0, 0]))
    made.close()
    loaded.close()
    return config, answers


def test_an_annotated_model_takes_what_its_sequences_bring(tmp_path: Any) -> None:
    """Completion declares neither controls nor states to clients."""
    source = replace(write_model(tmp_path, ANNOTATED), config=CONFIG)

    config, answers = sums(source)

    assert answers == [1, 3, 6]
    assert [one.name for one in config.input] == ["x"]
    assert [one.name for one in config.output] == ["y"]
    assert config.dynamic_batching is None


def test_a_state_that_is_an_output_too_is_both(tmp_path: Any) -> None:
    """Clients get it, and the next step does."""
    listed = replace(
        with_tensors(CONFIG),
        output=(
            ModelOutput("y", DataType.FP32, (1,)),
            ModelOutput("sum_out", DataType.FP32, (1,)),
        ),
    )
    source = replace(write_model(tmp_path, ANNOTATED), config=listed)

    config, answers = sums(source)

    assert answers == [1, 3, 6]
    assert [one.name for one in config.output] == ["y", "sum_out"]


def test_a_control_of_another_datatype_than_the_code_says_is_refused(tmp_path: Any) -> None:
    """Both are named."""
    text = ANNOTATED.replace("START: INT32[1]", "START: BOOL[1]")
    source = replace(write_model(tmp_path, text), config=CONFIG)

    with pytest.raises(InvalidArgument, match=r"'START' is INT32 .* the code says BOOL"):
        load(source)


def test_a_torch_module_takes_what_its_sequences_bring(tmp_path: Any) -> None:
    """In the datatypes of the configuration; its states stay tensors."""
    pytest.importorskip("torch")
    source = replace(write_model(tmp_path, TORCH), config=with_tensors(CONFIG))

    _, answers = sums(source)

    assert answers == [1, 3, 6]
