"""Laws of what this version does not do: it says so at load."""

from dataclasses import replace
from typing import Any

import pytest
from tests.runtime.fakes import config

from penstock_runtime.config import BatchInput, ModelInput
from penstock_runtime.config_scheduling import SequenceBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Unsupported
from penstock_runtime.unavailable import refuse_unavailable

RAGGED = (ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True),)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            {"sequence_batching": SequenceBatching(), "batch_input": (BatchInput(),)},
            "ragged batches of sequences",
        ),
        (
            {"sequence_batching": SequenceBatching(), "input": RAGGED},
            "ragged batches of sequences",
        ),
    ],
)
def test_what_would_have_to_be_ignored_is_refused(change: dict[str, Any], field: str) -> None:
    """The model and the field are named."""
    with pytest.raises(Unsupported, match="model 'm' asks for ") as refused:
        refuse_unavailable(replace(config(), **change))

    assert f"asks for {field}, which is not available" in refused.value.message
