"""Laws of arrays on their way through torch: shared where possible, cast within their kind, BF16
as itself.
"""

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from tests.runtime.model_folders import context, executable, load, run
from tests.runtime.torch_folders import (
    net,
    net_config,
    outputs,
    rows,
    script,
)

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType, bf16_to_float32, float32_to_bf16
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.tensor import to_host


class Echo(torch.nn.Module):
    """Gives back what it gets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input."""
        return x


def echo(root: Path, datatype: DataType, dims: tuple[int, ...]) -> ModelSource:
    config = ModelConfig(
        name="m",
        input=(ModelInput("x", datatype, dims),),
        output=(ModelOutput("y", datatype, dims),),
    )
    return script(root, Echo(), config)


@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BYTES])
def test_every_datatype_goes_through_torch_unchanged(datatype: DataType, tmp_path: Path) -> None:
    """What goes in comes out, bit by bit."""
    values = np.arange(4).astype(datatype.numpy)

    answer = run(echo(tmp_path, datatype, (4,)), {"x": values})

    assert str(answer["y"].dtype) == f"torch.{datatype.torch_name}"
    assert to_host(answer["y"]).tobytes() == values.tobytes()


def test_bytes_of_the_wire_are_used_where_they_are_without_a_warning(tmp_path: Path) -> None:
    """A read-only array is shared with torch, not copied; only odd addresses are copied."""
    wire = rows(1).tobytes()
    straight = np.frombuffer(wire, np.float32)
    odd = np.frombuffer(b"x" + wire, np.float32, offset=1)
    backwards = straight[::-1]
    source = echo(tmp_path, DataType.FP32, (4,))

    with warnings.catch_warnings(), executable(source) as made:
        warnings.simplefilter("error")
        answers = [
            cast(Executable, made).execute({"x": array}, [context()])["y"]
            for array in (straight, odd, backwards)
        ]

    assert answers[0].data_ptr() == straight.ctypes.data
    assert [a.tolist() for a in answers] == [a.tolist() for a in (straight, odd, backwards)]


def test_bf16_is_computed_as_bf16(tmp_path: Path) -> None:
    """Halves become bfloat16 for the module, and its bfloat16 output comes back as halves."""

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    halves = float32_to_bf16(np.array([1.5, -3.25, 1e30], np.float32))
    config = ModelConfig(
        name="m",
        input=(ModelInput("x", DataType.BF16, (3,)),),
        output=(ModelOutput("y", DataType.BF16, (3,)),),
    )

    answer = run(script(tmp_path, Double(), config), {"x": halves})

    assert answer["y"].dtype == torch.bfloat16
    doubled = bf16_to_float32(to_host(answer["y"]))
    np.testing.assert_array_equal(doubled, bf16_to_float32(halves) * 2)


def test_an_output_is_cast_within_its_kind_only(tmp_path: Path) -> None:
    """float64 becomes FP32; a float never becomes an integer."""

    class Wide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.double()

    narrow = net_config(max_batch_size=0, output=outputs("y", dims=(4,)))
    broken = replace(narrow, output=(ModelOutput("y", DataType.INT32, (4,)),))
    source = script(tmp_path, Wide(), narrow)

    answer = run(source, {"x": rows(1)[0]})

    assert answer["y"].dtype == torch.float32
    with pytest.raises(Internal, match="output 'y' of model 'm' is float64, expected INT32"):
        run(replace(source, config=broken), {"x": rows(1)[0]})


def test_a_torch_model_with_text_is_refused(tmp_path: Path) -> None:
    """BYTES has no place in torch."""
    source = echo(tmp_path, DataType.BYTES, (1,))
    _, loaded = load(source)

    with pytest.raises(InvalidArgument, match="'x' is BYTES, which torch does not have"):
        loaded.executable(Placement("m_0"))
    loaded.close()


def test_a_failure_inside_torch_is_the_models(tmp_path: Path) -> None:
    """A shape that the module cannot take is an error of the backend, told in one line."""
    source = script(tmp_path, net(), net_config())

    with pytest.raises(Internal) as caught:
        run(source, {"x": np.zeros((2, 5), np.float32)})

    assert "\n" not in caught.value.message
    assert caught.value.scheduled


def test_a_model_is_warmed_with_what_its_batches_are_cast_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What clients send it would refuse, and compile nothing."""
    config = net_config(
        dynamic_batching=DynamicBatching(),
        parameters={"batch_cast": ModelParameter("x: FP16")},
        output=(ModelOutput("y", DataType.FP16, (3,)),),
    )

    with caplog.at_level(logging.INFO), executable(script(tmp_path, net().half(), config)):
        pass

    assert "was not warmed" not in caplog.text
