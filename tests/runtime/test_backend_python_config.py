"""Laws of Python models, two: configuration and code complete and never contradict each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.model_folders import (
    load,
    run,
    write_model,
)

from penstock_runtime.config import (
    ModelConfig,
    ModelInput,
    ModelOutput,
    Reshape,
    TransactionPolicy,
)
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    InvalidArgument,
)

ONES = np.ones((2, 3), np.float32)
IDENTITY = "def predict(x: FP32[3]) -> FP32[3]: return x"


def test_the_configuration_may_say_what_the_annotations_do_not(tmp_path: Path) -> None:
    """Names, datatypes and dims of the configuration serve a model without annotations."""
    source = write_model(tmp_path, "def predict(x, **rest): return {'y': x + rest['INPUT']}")
    config = ModelConfig(
        name="m",
        max_batch_size=4,
        input=(ModelInput("x", DataType.FP32, (3,)), ModelInput("INPUT", DataType.FP32, (3,))),
        output=(ModelOutput("y", DataType.FP32, (3,)),),
    )

    completed, loaded = load(replace(source, config=config))
    loaded.close()
    outputs = run(replace(source, config=config), {"x": ONES, "INPUT": ONES})

    assert completed.dynamic_batching is None
    assert outputs["y"].tolist() == (ONES * 2).tolist()


def test_a_reshaped_tensor_is_annotated_as_the_model_sees_it(tmp_path: Path) -> None:
    """With reshape, the code's dims are those after it."""
    source = write_model(tmp_path, IDENTITY)
    config = ModelConfig(
        name="m", input=(ModelInput("x", DataType.FP32, (1, 3), reshape=Reshape((3,))),)
    )

    completed, loaded = load(replace(source, config=config))
    loaded.close()

    assert completed.input == config.input


def test_the_mask_of_a_length_batch_is_no_input_of_requests(tmp_path: Path) -> None:
    """A parameter that the batcher fills is not asked of clients."""
    source = write_model(
        tmp_path,
        """
        LENGTHS = {"input": ["x"], "mask_name": "mask"}
        @model(max_batch_size=4, batching={"length_batching": LENGTHS})
        def predict(x: FP32[-1], mask: INT64[-1]) -> FP32[1]:
            return (x * mask).sum(1, keepdims=True)
        """,
    )

    completed, loaded = load(source)
    loaded.close()

    assert [declared.name for declared in completed.input] == ["x"]
    assert completed.dynamic_batching == DynamicBatching(
        length_batching=LengthBatching(input=("x",), mask_name="mask")
    )


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        (
            IDENTITY,
            ModelConfig(name="m", input=(ModelInput("x", DataType.INT32, (3,)),)),
            r"input 'x' is INT32\[3\] in the configuration, but the code says FP32\[3\]",
        ),
        (
            IDENTITY,
            ModelConfig(name="m", output=(ModelOutput("OUTPUT0", DataType.FP32, (4,)),)),
            r"output 'OUTPUT0' is FP32\[4\] in the configuration, but the code says FP32\[3\]",
        ),
        (
            IDENTITY,
            ModelConfig(name="m", input=(ModelInput("y", DataType.FP32, (3,)),)),
            "names input 'y', which predict does not have; it has x",
        ),
        (
            "def predict(x: FP32[3], y: FP32[3]) -> FP32[3]: ...",
            ModelConfig(name="m", input=(ModelInput("x", DataType.FP32, (3,)),)),
            "predict also needs 'y'",
        ),
        (
            f"@model(max_batch_size=4)\n{IDENTITY}",
            ModelConfig(name="m", max_batch_size=8),
            "max_batch_size is 8 in the configuration, but the code says at most 4",
        ),
        (
            IDENTITY,
            ModelConfig(name="m", model_transaction_policy=TransactionPolicy(True)),
            "decoupled is true in the configuration, but the code says predict returns",
        ),
        (
            f"@model(name='n')\n{IDENTITY}",
            ModelConfig(name="m"),
            "the name is m in the configuration, but the code says n",
        ),
        (
            f"@model(labels={{'OUT': 'l.txt'}})\n{IDENTITY}",
            ModelConfig(name="m"),
            "labels of output 'OUT'",
        ),
        (
            "def predict(x, y: FP32[1]) -> FP32[1]: ...",
            ModelConfig(name="m"),
            "input 'x' of predict has no datatype and dims; annotate it, for instance x:",
        ),
        (
            "def predict(x: FP32[1]): ...",
            ModelConfig(name="m"),
            "predict does not say what it returns",
        ),
        ("def predict(**x) -> FP32[1]: ...", ModelConfig(name="m"), "has to list them"),
        (
            "def predict(x: FP32[1], c: Context) -> FP32[1]: ...",
            ModelConfig(name="m", max_batch_size=2),
            r"expected list\[Context\]",
        ),
    ],
)
def test_a_contradiction_between_configuration_and_code_names_both(
    tmp_path: Path, text: str, config: ModelConfig, expected: str
) -> None:
    """Neither wins silently."""
    source = write_model(tmp_path, text)

    with pytest.raises(InvalidArgument, match=expected):
        load(replace(source, config=config))


def test_the_configuration_may_allow_less_than_the_code(tmp_path: Path) -> None:
    """A smaller batch, one output of two, and a fixed size for a wildcard are no contradiction."""
    source = write_model(
        tmp_path,
        """
        @model(max_batch_size=8)
        def predict(x: FP32[-1]) -> tuple[FP32[-1], FP32[-1]]: return x, -x
        """,
    )
    config = ModelConfig(
        name="m",
        max_batch_size=2,
        input=(ModelInput("x", DataType.FP32, (3,)),),
        output=(ModelOutput("OUTPUT1", DataType.FP32, (3,)),),
    )

    outputs = run(replace(source, config=config), {"x": ONES})

    assert list(outputs) == ["OUTPUT1"]
    assert outputs["OUTPUT1"].tolist() == (-ONES).tolist()
