"""A model from a folder: whole or in shards, in the dtype that is asked for, and never half."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.llm.tiny_models import build

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.model_loader import load_causal_model
from penstock_runtime.llm.options import EngineOptions

OPTIONS = EngineOptions(cpu_kernels="off")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build("Llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    build("Llama").save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """One to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("kind", ["saved", "sharded"])
def test_the_weights_are_those_of_the_files(kind: str, request: pytest.FixtureRequest) -> None:
    loaded = load_causal_model(request.getfixturevalue(kind), OPTIONS)

    expected = build("Llama").state_dict()
    assert all(torch.equal(loaded.model.state_dict()[name], expected[name]) for name in expected)
    assert (loaded.paged, loaded.vocab_size, loaded.max_model_len) == (True, 128, 256)


def test_progress_is_told_up_to_the_last_byte(sharded: Path) -> None:
    told: list[tuple[int, int]] = []

    loaded = load_causal_model(sharded, OPTIONS, progress=lambda *both: told.append(both))

    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert told[-1][1] <= loaded.memory_bytes < told[-1][1] + 4096


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_dtype_is_the_one_asked_for(saved: Path, name: str, dtype: torch.dtype) -> None:
    loaded = load_causal_model(saved, EngineOptions(dtype=name, cpu_kernels="off"))

    assert loaded.dtype == dtype
    assert loaded.paged, loaded.reason


def test_ends_of_sequence_come_from_both_configurations(folder: Path) -> None:
    _edit(folder / "config.json", eos_token_id=7)
    (folder / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')

    assert load_causal_model(folder, OPTIONS).eos_token_ids == {7, 8, 9}


def _without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _deeper(folder: Path) -> None:
    _edit(folder / "config.json", num_hidden_layers=3, layer_types=None)


def _wider(folder: Path) -> None:
    _edit(folder / "config.json", intermediate_size=96)


def _quantised(folder: Path) -> None:
    _edit(folder / "config.json", quantization_config={"quant_method": "awq"})


def _foreign(folder: Path) -> None:
    _edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('this code ran')")


def _encoder(folder: Path) -> None:
    _edit(folder / "config.json", model_type="vit")


def _not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


BROKEN = {
    "there is no config.json": _without("config.json"),
    "config.json is no JSON": _not_json,
    r"there is neither model.safetensors nor model.safetensors.index.json$": _without(
        "model.safetensors"
    ),
    "pytorch_model.bin is a pickle, which is not read": _pickled,
    "model.safetensors has": _cut,
    "the files lack 9 tensors of LlamaForCausalLM, first 'model.layers.2": _deeper,
    "tensors do not fit LlamaForCausalLM, first": _wider,
    "config.json has a quantization_config, which is not read": _quantised,
    "a model of type 'mine' by code of its own, which is not run": _foreign,
    "a model of type 'vit' does not generate text": _encoder,
}


@pytest.mark.parametrize("message", list(BROKEN))
def test_a_broken_folder_is_refused_by_what_is_wrong(folder: Path, message: str) -> None:
    BROKEN[message](folder)

    with pytest.raises(InvalidArgument, match=message) as refused:
        load_causal_model(folder, OPTIONS)

    assert str(folder.parent) not in refused.value.message


def test_a_missing_shard_is_named(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    shard = sorted(folder.glob("model-00002-*"))[0]
    shard.unlink()

    with pytest.raises(InvalidArgument, match=f"names '{shard.name}', which is not there"):
        load_causal_model(folder, OPTIONS)


def test_an_index_cannot_name_a_file_elsewhere(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    _edit(folder / "model.safetensors.index.json", weight_map={"a": "../model-00001.safetensors"})

    with pytest.raises(InvalidArgument, match="which is not there"):
        load_causal_model(folder, OPTIONS)


def test_an_unknown_dtype_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(InvalidArgument, match="dtype is 'int5', expected auto, fp32, bf16 or fp16"):
        load_causal_model(saved, EngineOptions(dtype="int5"))
