"""Models are loaded by threads that know nothing of each other."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.model_loader import load_causal_model
from penstock_runtime.llm.options import EngineOptions

TRAINED = Path(__file__).parent / "tiny_llm"


def test_models_that_are_loaded_at_once_are_all_complete() -> None:
    """transformers unties weights for a moment, of all models there are."""

    def load(_: int) -> LoadedCausalModel:
        return load_causal_model(TRAINED, EngineOptions(dtype="float32", cpu_kernels="off"))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(6)))

    assert all(loaded.paged for loaded in found)
    assert torch.get_default_dtype() == torch.float32
    assert len({loaded.memory_bytes for loaded in found}) == 1
