"""Models are loaded by threads that know nothing of each other, and not all of them can be."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.loading import import_alone
from penstock_runtime.llm.model_loader import load_causal_model
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.serving import build_engine

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


def test_what_imports_transformers_is_imported_by_one_thread_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that puts another module in its own place is half there for whoever comes then."""
    names = [f"slowly_imported_{number}" for number in range(4)]
    code = "import time, sys\nsys.inside.append(1)\ntime.sleep(0.01)\nALONE = len(sys.inside)\n"
    for name in names:
        (tmp_path / f"{name}.py").write_text(code + "sys.inside.pop()\n")
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "inside", [], raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(import_alone, names))

    assert [module.ALONE for module in found] == [1, 1, 1, 1]


@pytest.mark.parametrize("wrong", [{"policy": "nonsense"}, {"chat_template": "../../x.jinja"}])
def test_a_model_that_cannot_be_put_together_leaves_no_thread(wrong: dict[str, str]) -> None:
    """Though its weights are read when that is found."""
    source = ModelSource(ModelConfig(name="tiny"), 1, TRAINED, TRAINED)
    options = EngineOptions(dtype="float32", cpu_kernels="off", **wrong)  # type: ignore[arg-type]
    before = set(threading.enumerate())

    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        build_engine(source, options, "cpu", "tiny_0")

    end = time.monotonic() + 20
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end, set(threading.enumerate()) - before
        time.sleep(0.01)
