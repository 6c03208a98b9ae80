"""Adapters: what they add to which token, their slots, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")


import torch
from tests.llm import lora_folders as folders
from transformers import GPT2Config, GPT2LMHeadModel

from penstock_runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from penstock_runtime.llm import lora_linear
from penstock_runtime.llm.lora import Adapters, read_list
from penstock_runtime.llm.lora_linear import NONE, LoraForward
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.quantise import quantise_model

TOKENS = torch.arange(24) * 7 % folders.VOCAB


def _options(names: str, **more: Any) -> EngineOptions:
    listed = ",".join(f"{name}=adapters/{name}" for name in names)
    return EngineOptions(adapters=listed, **more)


def _logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    """Of texts of one token each, as the rows of a batch."""
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=tokens[:, None], use_cache=False).logits[:, 0]
    return found


@pytest.fixture
def factors(tmp_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Three adapters of different ranks and layers, scaled by 8 / r."""
    return {
        "a": folders.write(tmp_path / "adapters" / "a", 1),
        "b": folders.write(tmp_path / "adapters" / "b", 2, rank=8),
        "c": folders.write(
            tmp_path / "adapters" / "c", 3, rank=2, layers=("self_attn.q_proj", "mlp.up_proj")
        ),
    }


SCALING = {"a": 2.0, "b": 1.0, "c": 4.0}


class _Fused(torch.nn.Linear):
    """Layers of one input as one, as fusion makes it."""

    def __init__(self, layers: list[Any]) -> None:
        weight = torch.cat([layer.weight for layer in layers])
        super().__init__(weight.shape[1], len(weight), bias=False)
        self.weight.data = weight
        self.sizes = [len(layer.weight) for layer in layers]

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Without a call of forward."""
        return torch.addmm(other.flatten(0, -2), x.flatten(0, -2), self.weight.t()).view_as(other)


class _FusedMlp(torch.nn.Module):
    """Holds its layers beside the tree of modules too."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj = _Fused([mlp.gate_proj, mlp.up_proj])
        self.down_proj = _Fused([mlp.down_proj])
        self.held = (self.gate_proj, self.down_proj)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.held[0](x).chunk(2, -1)
        gated = torch.nn.functional.silu(gate) * up
        return self.held[1].add_to(torch.zeros_like(x), gated)


class _Share(torch.nn.Module):
    def __init__(self, whole: _Fused, place: int) -> None:
        super().__init__()
        self.held = (whole, place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole, place = self.held
        part: torch.Tensor = whole(x).split(whole.sizes, -1)[place]
        return part


def _fuse(model: Any) -> Any:
    for layer in model.model.layers:
        layer.mlp = _FusedMlp(layer.mlp)
        attention = layer.self_attn
        whole = _Fused([attention.q_proj, attention.k_proj, attention.v_proj])
        attention.q_proj, attention.k_proj, attention.v_proj = (
            _Share(whole, at) for at in range(3)
        )
        attention.q_proj.add_module("whole", whole)
    return model.requires_grad_(False)


# -- what is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_a_batch_of_mixed_adapters_gives_what_each_gives_alone_merged(
    tmp_path: Path,
    factors: dict[str, dict[str, torch.Tensor]],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _fuse(folders.model()) if fused else folders.model()
    adapters = Adapters(model, _options("abc"), tmp_path)
    slots = {name: adapters.load(name) for name in "abc"} | {"": NONE}
    names = ["a", "b", "", "c", "a", "", "b", "b"] * 3

    adapters.set_rows(torch.tensor([slots[name] for name in names]))
    mixed = _logits(model)
    monkeypatch.setattr(lora_linear, "_MOST_MASKED", 0)
    assert torch.allclose(_logits(model), mixed, atol=1e-5)

    for name in ("a", "b", "c", ""):
        alone = folders.merged(folders.model(), factors.get(name, {}), SCALING.get(name, 0))
        rows = torch.tensor([place for place, one in enumerate(names) if one == name])
        assert torch.allclose(mixed[rows], _logits(alone)[rows], atol=1e-5), name
    assert not torch.allclose(mixed[0], _logits(folders.model())[0], atol=1e-2)


def test_tokens_of_one_packed_row_have_their_own_adapters(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    model = folders.model()
    adapters = Adapters(model, _options("ab"), tmp_path)
    layer = "model.layers.0.mlp.down_proj"
    x = torch.randn(1, 6, folders.INNER)
    slots = [adapters.load("a"), NONE, adapters.load("b")]

    adapters.set_rows([slots[0], slots[0], slots[1], slots[2], slots[2], slots[2]])
    found = model.get_submodule(layer)(x)

    for name, first, last in (("a", 0, 2), ("", 2, 3), ("b", 3, 6)):
        alone = folders.merged(folders.model(), factors.get(name, {}), SCALING.get(name, 0))
        expected = alone.get_submodule(layer)(x)
        assert torch.allclose(found[:, first:last], expected[:, first:last], atol=1e-5)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_an_adapter_goes_over_a_quantised_model(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]], scheme: str
) -> None:
    model = folders.model()
    quantise_model(model, scheme)
    plain = _logits(model)
    adapters = Adapters(model, _options("c"), tmp_path)
    adapters.load("c")
    adapters.set_all("c")
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, folders.HIDDEN)

    change = layer(x) - type(layer).forward(layer, x)

    key = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    a, b = (factors["c"][key.format(which)] for which in "AB")
    assert torch.allclose(change, 4.0 * x @ a.T @ b.T, atol=1e-4)
    assert torch.allclose(layer.add_to(torch.ones(3, folders.INNER), x), 1 + layer(x), atol=1e-5)
    adapters.set_rows(None)
    assert torch.equal(_logits(model), plain)


def test_a_bf16_model_has_bf16_factors(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    model = folders.model().bfloat16()
    adapters = Adapters(model, _options("a"), tmp_path)

    adapters.load("a")
    adapters.set_all("a")

    alone = folders.merged(folders.model(), factors["a"], SCALING["a"])
    expected = _logits(alone)
    assert (_logits(model).float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("scheme", ["none", "int8"])
def test_gpt2s_kind_of_layer_has_adapters_too(tmp_path: Path, scheme: str) -> None:
    name = "transformer.h.1.mlp.c_fc"
    a, b = torch.randn(4, 32), torch.randn(128, 4)
    key = f"base_model.model.{name}.lora_{{}}.weight"
    tensors = {key.format("A"): a, key.format("B"): b}
    folders.write(tmp_path / "adapters" / "a", 1, layers=(), tensors=tensors)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4))
    quantise_model(model.eval(), scheme)
    x = torch.randn(1, 3, 32)
    adapters = Adapters(model, _options("a"), tmp_path)
    before = model.get_submodule(name)(x)

    adapters.load("a")
    adapters.set_all("a")

    expected = before + 2.0 * x @ a.T @ b.T
    assert torch.allclose(model.get_submodule(name)(x), expected, atol=1e-4)


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    made = folders.write(tmp_path / "adapters" / "a", 1, rank=16, config={"use_rslora": True})
    model = folders.model()
    adapters = Adapters(model, _options("a"), tmp_path)

    adapters.load("a")
    adapters.set_all("a")

    assert torch.allclose(
        _logits(model), _logits(folders.merged(folders.model(), made, 2.0)), atol=1e-5
    )


def test_without_adapters_the_layers_are_untouched(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    model = folders.model()
    adapters = Adapters(model, _options("abc"), tmp_path)
    assert not _changed(model)

    adapters.load("c")
    adapters.set_rows([NONE] * 24)

    assert len(_changed(model)) == 2 * folders.LAYERS
    assert adapters.rows.segments == ()
    assert torch.equal(_logits(model), _logits(folders.model()))
    adapters.unload("c")
    assert not _changed(model)


def _changed(model: Any) -> list[torch.nn.Module]:
    return [one for one in model.modules() if isinstance(one.forward, LoraForward)]


# -- slots -----------------------------------------------------------------------------------------


def test_the_adapter_that_was_not_used_for_the_longest_time_makes_room(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    adapters = Adapters(folders.model(), _options("abc", max_loras=2), tmp_path)
    adapters.load("a")
    slot = adapters.load("b")
    adapters.index("a")

    taken = adapters.load("c")

    assert adapters.loaded == ("a", "c")
    assert taken == slot
    stats = adapters.stats()
    assert (stats.slots, stats.loaded, stats.loads, stats.evictions) == (2, 2, 3, 1)
    assert stats.nbytes > 0


def test_an_adapter_in_use_keeps_its_slot_and_others_wait(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    adapters = Adapters(folders.model(), _options("abc", max_loras=1), tmp_path)
    slot = adapters.acquire("a")

    assert adapters.acquire("b") is None
    assert adapters.acquire("a") == slot
    with pytest.raises(FailedPrecondition, match="'a' is used by 2 sequences"):
        adapters.unload("a")
    with pytest.raises(FailedPrecondition, match="all 1 slots"):
        adapters.load("b")
    adapters.release("a")
    adapters.release("a")
    assert adapters.acquire("b") == slot
    assert adapters.loaded == ("b",)


def test_an_unloaded_adapter_changes_nothing_and_can_come_back(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    model = folders.model()
    adapters = Adapters(model, _options("ab", max_loras=2), tmp_path)
    adapters.load("a")
    adapters.set_all("a")
    before = _logits(model)

    assert adapters.unload("a")
    assert not adapters.unload("a")
    assert torch.equal(_logits(model), _logits(folders.model()))
    with pytest.raises(FailedPrecondition, match="'a' is not loaded"):
        adapters.index("a")
    adapters.load("a", adapters.read("a"))
    adapters.set_all("a")
    assert torch.equal(_logits(model), before)


# -- what is refused -------------------------------------------------------------------------------


def test_only_what_is_offered_can_be_loaded(
    tmp_path: Path, factors: dict[str, dict[str, torch.Tensor]]
) -> None:
    adapters = Adapters(folders.model(), _options("ab"), tmp_path)

    assert adapters.names == ("a", "b")
    with pytest.raises(NotFound, match="no adapter 'c', only a, b"):
        adapters.load("c")


@pytest.mark.parametrize("text", ["a", "=x", "a=", "a=x,a=y"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected name=folder"):
        read_list(text)


def test_a_list_may_have_spaces_and_end_with_a_comma() -> None:
    assert read_list(" a = x/y , b=z, ") == {"a": "x/y", "b": "z"}
    assert read_list("") == {}


def test_a_folder_outside_of_the_models_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "model"
    folders.write(root / "in", 1)
    folders.write(tmp_path / "out", 1)
    (root / "link").symlink_to(tmp_path / "out")

    for path in ("../out", str(tmp_path / "out"), "link", "missing"):
        with pytest.raises(InvalidArgument, match="no folder inside of the model's"):
            Adapters(folders.model(), EngineOptions(adapters=f"a={path}"), root)
    (root / "in" / "adapter_model.safetensors").unlink()
    (root / "in" / "adapter_model.safetensors").symlink_to(
        tmp_path / "out" / "adapter_model.safetensors"
    )
    adapters = Adapters(folders.model(), EngineOptions(adapters="a=in"), root)
    with pytest.raises(InvalidArgument, match="leads out of the model's folder"):
        adapters.load("a")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"use_dora": True}, "use_dora is set, which is not offered"),
        ({"bias": "all"}, "bias is 'all', expected 'none'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the base"),
        ({"r": 65}, "r is 65, expected 1 to max_lora_rank, 64"),
        ({"r": True}, "r is True, expected 1 to"),
        ({"lora_alpha": "x"}, "lora_alpha is no number"),
    ],
)
def test_a_kind_that_is_not_offered_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], match: str
) -> None:
    folders.write(tmp_path / "adapters" / "a", 1, config=config)
    adapters = Adapters(folders.model(), _options("a"), tmp_path)

    with pytest.raises(InvalidArgument, match=match):
        adapters.load("a")
    assert adapters.loaded == ()


_Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({f"{_Q}.lora_B.weight": torch.zeros(7, 4)}, "q_proj by 7x64, expected 64x64"),
        ({f"{_Q}.lora_A.weight": torch.zeros(3, 64)}, "expected a float of rank 4"),
        ({f"{_Q}.lora_A.weight": torch.zeros(4, 64).int()}, "expected a float of rank 4"),
        ({f"{_Q}.lora_magnitude_vector": torch.zeros(64)}, "lora_magnitude_vector, expected"),
        ({"base_model.model.x.lora_A.weight": torch.zeros(4, 64)}, "one factor of x"),
        (
            {
                "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64),
                "base_model.model.lm_head.lora_B.weight": torch.zeros(96, 4),
            },
            "lm_head, which is no linear layer of the decoder",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], match: str
) -> None:
    folders.write(tmp_path / "adapters" / "a", 1, tensors=tensors)
    adapters = Adapters(folders.model(), _options("a"), tmp_path)

    with pytest.raises(InvalidArgument, match=match):
        adapters.load("a")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "a"
    folders.write(folder, 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    adapters = Adapters(folders.model(), _options("a"), tmp_path)

    with pytest.raises(InvalidArgument, match="is a pickle, which is not read"):
        adapters.load("a")


def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "a"
    folders.write(folder, 1)
    adapters = Adapters(folders.model(), _options("a"), tmp_path)

    for text in ("[]", "{", "[" * 100_000, "{}" + " " * (1 << 20)):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(InvalidArgument, match="no JSON object"):
            adapters.load("a")
