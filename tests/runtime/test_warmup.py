"""Laws of warm-up: what an instance executes before it is ready is what it will execute later."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.ragged_models import KINDS, mixed_config, ragged_config

from penstock_runtime.backends.base import Arrays
from penstock_runtime.batch import BatchPlan
from penstock_runtime.config import (
    ModelConfig,
    ModelInput,
    Reshape,
    Warmup,
    WarmupInput,
)
from penstock_runtime.config_scheduling import SequenceBatching, SequenceControlInput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType, float32_to_bf16
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.tensor import object_array, pack_bytes
from penstock_runtime.warmup import warm_up, warmup_requests

ZERO = {"zero_data": True}


class Recorder:
    """An instance that keeps what it was given."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.ids: list[list[str]] = []

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        self.inputs.append(dict(inputs))
        self.ids.append([context.id for context in contexts])
        return {}

    def close(self) -> None:
        """Nothing is held."""


class StreamRecorder:
    """An instance of a decoupled model that keeps what it was given."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.responses = 0

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        self.inputs.append(dict(inputs))
        for _ in range(2):
            self.responses += 1
            yield {}

    def close(self) -> None:
        """Nothing is held."""


def sample(size: int = 1, count: int = 1, **inputs: WarmupInput) -> Warmup:
    """A warm-up of these inputs."""
    return Warmup("w", size, inputs, count)


def tensor(data_type: DataType, *dims: int, **source: Any) -> WarmupInput:
    """One of its tensors; zeros unless said otherwise."""
    return WarmupInput(data_type, dims, **(source or ZERO))


def warmed(config: ModelConfig, *samples: Warmup, root: Path = Path("nowhere")) -> Recorder:
    """What an instance of the model was given."""
    config, recorder = replace(config, model_warmup=samples), Recorder()
    for request in warmup_requests(config, root):
        warm_up(recorder, BatchPlan(config, 1), request)
    return recorder


def model(*inputs: ModelInput, max_batch: int = 8) -> ModelConfig:
    """A model with these inputs."""
    return ModelConfig(name="m", max_batch_size=max_batch, input=inputs)


@pytest.mark.parametrize("datatype", list(DataType))
def test_zeros_of_every_datatype_have_its_dtype(datatype: DataType) -> None:
    """Strings are empty, all else is 0, with a row for each request."""
    recorder = warmed(model(ModelInput("X", datatype, (2,))), sample(3, X=tensor(datatype, 2)))

    (inputs,) = recorder.inputs
    empty = b"" if datatype is DataType.BYTES else 0
    assert inputs["X"].dtype == datatype.numpy
    assert inputs["X"].tolist() == [[empty, empty]] * 3


@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BYTES])
def test_random_numbers_are_the_same_at_every_load_and_small(datatype: DataType) -> None:
    """Reproducible, different from row to row, from 0 to 1 or to 127."""
    config = model(ModelInput("X", datatype, (64,)))
    asked = sample(2, X=tensor(datatype, 64, random_data=True))

    first, second = (warmed(config, asked).inputs[0]["X"] for _ in range(2))

    most = 1 if datatype.numpy.kind in "fb" else 127
    if datatype is DataType.BF16:
        most = int(float32_to_bf16(np.ones(1, np.float32))[0])
    assert (first == second).all()
    assert (first[0] != first[1]).any()
    assert first.min() >= 0
    assert first.max() <= most
    assert len(set(first.reshape(-1).tolist())) > 1


def test_random_strings_are_empty() -> None:
    """As in Triton."""
    config = model(ModelInput("X", DataType.BYTES, (2,)))

    recorder = warmed(config, sample(X=tensor(DataType.BYTES, 2, random_data=True)))

    assert recorder.inputs[0]["X"].tolist() == [[b"", b""]]


def test_a_count_is_how_often_and_several_samples_are_all_executed() -> None:
    """In the order of the configuration; 0 counts as once."""
    config = model(ModelInput("X", DataType.INT32, (-1,)))
    samples = [sample(1, count, X=tensor(DataType.INT32, n)) for n, count in ((1, 0), (2, 3))]

    recorder = warmed(config, *samples)

    assert [inputs["X"].shape for inputs in recorder.inputs] == [(1, 1), (1, 2), (1, 2), (1, 2)]


def test_a_batch_is_as_many_requests_of_one_row() -> None:
    """A model that takes a context for each request gets them all."""
    recorder = warmed(
        model(ModelInput("X", DataType.INT32, (1,))), sample(3, X=tensor(DataType.INT32, 1))
    )

    assert recorder.ids == [["warmup:w"] * 3]


def test_without_batches_dims_are_the_whole_shape() -> None:
    """No row is put before them."""
    config = model(ModelInput("X", DataType.FP32, (2, 3)), max_batch=0)

    recorder = warmed(config, sample(X=tensor(DataType.FP32, 2, 3)))

    assert recorder.inputs[0]["X"].shape == (2, 3)


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_holds_one_request_or_each_of_them(tmp_path: Path, whole: bool) -> None:
    """The elements of one are given to all, or each gets its own."""
    rows = np.arange(4, dtype=np.int32).reshape(2, 2)
    words = object_array([b"a", b"", b"\0c", b"d"]).reshape(2, 2)
    (tmp_path / "warmup").mkdir()
    kept = slice(None) if whole else slice(1)
    (tmp_path / "warmup" / "x").write_bytes(rows[kept].tobytes())
    (tmp_path / "warmup" / "s").write_bytes(pack_bytes(words[kept]))
    config = model(ModelInput("X", DataType.INT32, (2,)), ModelInput("S", DataType.BYTES, (2,)))
    asked = sample(
        2,
        X=tensor(DataType.INT32, 2, input_data_file="x"),
        S=tensor(DataType.BYTES, 2, input_data_file="s"),
    )

    (inputs,) = warmed(config, asked, root=tmp_path).inputs

    expected = (rows, words) if whole else (rows[[0, 0]], words[[0, 0]])
    assert inputs["X"].tolist() == expected[0].tolist()
    assert inputs["S"].tolist() == expected[1].tolist()


@pytest.mark.parametrize(
    ("datatype", "content", "text"),
    [
        (DataType.INT32, b"1234567", "has 7 bytes, expected 8, or 16 for 2 requests"),
        (DataType.BYTES, b"\1\0\0\0a", "expected 4 string elements, got 1"),
        (DataType.INT32, None, "is not in the model's warmup folder"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, datatype: DataType, content: bytes | None, text: str
) -> None:
    """The input, what there is and what was expected are named; a file outside is none."""
    (tmp_path / "warmup").mkdir()
    (tmp_path / "outside").write_bytes(b"\0" * 8)
    if content is not None:
        (tmp_path / "warmup" / "x").write_bytes(content)
    config = model(ModelInput("X", datatype, (2,)))
    name = "x" if content is not None else "../outside"

    with pytest.raises(InvalidArgument, match="of input 'X'") as refused:
        warmed(config, sample(2, X=tensor(datatype, 2, input_data_file=name)), root=tmp_path)

    assert text in refused.value.message


def test_a_ragged_model_is_warmed_with_what_it_will_get() -> None:
    """Flat inputs and all that tells of the batch."""
    asked = sample(2, X=tensor(DataType.FP32, 3), Z=tensor(DataType.FP32, 1))

    (inputs,) = warmed(ragged_config(), asked).inputs

    assert inputs["X"].shape == (6,)
    assert inputs["BOUNDS"].tolist() == [0, 3, 6]
    assert KINDS.keys() <= inputs.keys()


def test_padding_its_mask_and_shape_tensors_are_there() -> None:
    """A padded model gets its mask; a shape tensor has no row."""
    asked = sample(
        2,
        P=tensor(DataType.FP32, 4),
        X=tensor(DataType.FP32, 1),
        W=tensor(DataType.INT32, 2),
    )

    (inputs,) = warmed(mixed_config(), asked).inputs

    assert inputs["MASK"].tolist() == [[1] * 4] * 2
    assert inputs["W"].tolist() == [0, 0]


def test_a_reshape_is_applied() -> None:
    """The model sees its own shape, as it will later."""
    config = model(ModelInput("X", DataType.FP32, (4,), reshape=Reshape((2, 2))))

    recorder = warmed(config, sample(X=tensor(DataType.FP32, 4)))

    assert recorder.inputs[0]["X"].shape == (1, 2, 2)


def test_optional_inputs_may_be_left_out() -> None:
    """What the sample does not give is not there."""
    config = model(
        ModelInput("X", DataType.FP32, (1,)), ModelInput("O", DataType.FP32, (1,), optional=True)
    )
    with_o = sample(X=tensor(DataType.FP32, 1), O=tensor(DataType.FP32, 1))

    recorder = warmed(config, sample(X=tensor(DataType.FP32, 1)), with_o)

    assert [sorted(inputs) for inputs in recorder.inputs] == [["X"], ["O", "X"]]


def test_inputs_that_schedulers_give_come_from_the_sample() -> None:
    """Controls of sequences are no input of a client; they have a row for each request."""
    controls = SequenceBatching(control_input=(SequenceControlInput("START"),))
    config = replace(model(ModelInput("X", DataType.FP32, (1,))), sequence_batching=controls)

    recorder = warmed(
        config, sample(2, X=tensor(DataType.FP32, 1), START=tensor(DataType.INT32, 1))
    )

    assert recorder.inputs[0]["START"].tolist() == [[0], [0]]


def test_a_decoupled_model_executes_each_request_to_its_end() -> None:
    """One request at a time, all responses taken."""
    config = replace(
        model(ModelInput("X", DataType.FP32, (1,))),
        model_warmup=(sample(2, X=tensor(DataType.FP32, 1)),),
    )
    recorder = StreamRecorder()

    for request in warmup_requests(config, Path("nowhere")):
        warm_up(recorder, BatchPlan(config, 1), request)

    assert [inputs["X"].shape for inputs in recorder.inputs] == [(1, 1), (1, 1)]
    assert recorder.responses == 4
