"""Laws of what this version does not do: it says so at load."""

from dataclasses import replace
from typing import Any

import pytest
from tests.runtime.fakes import config

from penstock_runtime.config import BatchInput, ModelInput
from penstock_runtime.config_scheduling import (
    DynamicBatching,
    Ensembling,
    LengthBatching,
    SequenceBatching,
)
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Unsupported
from penstock_runtime.unavailable import refuse_unavailable

RAGGED = (ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True),)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sequence_batching": SequenceBatching()}, "sequence_batching"),
        ({"ensemble_scheduling": Ensembling()}, "ensemble_scheduling"),
        ({"batch_input": (BatchInput(),)}, "batch_input"),
        ({"input": RAGGED}, "allow_ragged_batch of input 'X'"),
    ],
)
def test_what_would_have_to_be_ignored_is_refused(change: dict[str, Any], field: str) -> None:
    """The model and the field are named."""
    with pytest.raises(Unsupported, match="model 'm' asks for ") as refused:
        refuse_unavailable(replace(config(), **change))

    assert f"asks for {field}, which is not available" in refused.value.message


def test_a_ragged_input_that_is_batched_by_length_is_fine() -> None:
    """Padding is what makes it one batch."""
    rules = DynamicBatching(length_batching=LengthBatching(input=("X",)))

    refuse_unavailable(replace(config(batching=rules), input=RAGGED))

    assert rules.length_batching is not None
