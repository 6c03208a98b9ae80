"""Fused, a model computes the same, in less time and about the same memory."""

from typing import Any

import pytest
import torch
from tests.llm.plan_driver import PlanDriver
from tests.llm.tiny_models import build, prompts

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.cpu_kernels import kernels_for
from penstock_runtime.llm.fused_layer import FusedLayer
from penstock_runtime.llm.fusion import FusedNorm, fuse
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.packed_linear import JointLinear, PackedLinear, packable
from penstock_runtime.llm.runner import PagedRunner

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not packable(torch.float32), reason="torch packs no weights here"),
]


def _needs_kernels() -> None:
    if kernels_for("auto", torch.device("cpu"), torch.float32) is None:
        pytest.skip("the CPU's kernels cannot be built here")


def _loaded(family: str, **more: Any) -> LoadedCausalModel:
    dtype = more.pop("dtype", torch.float32)
    return prepare(build(family, **more).to(dtype), EngineOptions())


def _fused_layers(loaded: LoadedCausalModel) -> int:
    return sum(isinstance(m.__dict__.get("forward"), FusedLayer) for m in loaded.model.modules())


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "Granite"])
def test_the_usual_decoder_layers_are_fused_whole(family: str) -> None:
    _needs_kernels()

    assert _fused_layers(_loaded(family)) == 2


def test_a_layer_that_looks_usual_and_is_not_stays_as_it_is() -> None:
    """Its residual is scaled, which nothing but what it computes tells."""
    _needs_kernels()

    loaded = _loaded("Granite", residual_multiplier=0.5)

    assert loaded.paged
    assert _fused_layers(loaded) == 0


@pytest.mark.parametrize(("family", "style"), [("Llama", 0), ("Gemma2", 1)])
def test_norms_are_known_by_what_they_compute(family: str, style: int) -> None:
    _needs_kernels()

    loaded = _loaded(family, dtype=torch.bfloat16)

    assert isinstance(loaded.model.model.norm.forward, FusedNorm)
    assert loaded.model.model.norm.forward.style == style


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fused_model_gives_the_logits_of_the_plain_one(dtype: torch.dtype) -> None:
    runs = []
    for kernels in ("off", "auto"):
        options = EngineOptions(cpu_kernels=kernels)
        loaded = prepare(build("Qwen3").to(dtype), options)
        driver = PlanDriver(PagedRunner(loaded, options, 40), chunk=7)
        for prompt in prompts():
            driver.add(prompt, 1)
        driver.run()
        runs.append(torch.stack([driver.logits[n][0] for n in range(len(prompts()))]).exp())

    worst = float((runs[0] - runs[1]).abs().max())

    assert worst < (1e-5 if dtype == torch.float32 else 0.05)


def test_the_weights_are_not_held_twice() -> None:
    plain = prepare(build("Llama", hidden_size=64), EngineOptions(cpu_kernels="off"))

    fused = _loaded("Llama", hidden_size=64)

    assert fused.memory_bytes < 1.1 * plain.memory_bytes
    assert sum(p.numel() for p in fused.model.parameters()) < 0.2 * sum(
        p.numel() for p in plain.model.parameters()
    )


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_packed_layer_gives_what_its_layers_give(rows: int) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, 40), torch.nn.Linear(24, 8, bias=False)]
    x, other = torch.randn(1, rows, 24), torch.randn(1, rows, 48)

    with torch.inference_mode():
        packed = PackedLinear(layers)
        found = packed(x)
        expected = torch.cat([layer(x) for layer in layers], -1)

        assert torch.allclose(found, expected, atol=1e-5)
        assert rows == 0 or torch.allclose(packed.add_to(other, x), other + expected, atol=1e-5)


def test_the_shares_of_joined_layers_answer_in_any_order() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, size) for size in (16, 8, 8)]
    x, y = torch.randn(1, 3, 24), torch.randn(1, 3, 24)

    with torch.inference_mode():
        shares = JointLinear(layers).shares

        for place, value in ((0, x), (1, x), (2, x), (1, y), (0, y), (2, x)):
            assert torch.allclose(shares[place](value), layers[place](value), atol=1e-5)


def test_without_kernels_layers_stay_as_they_are() -> None:
    loaded = prepare(build("Llama"), EngineOptions(cpu_kernels="off"))

    assert type(loaded.model.model.layers[0].self_attn.q_proj) is torch.nn.Linear


def test_without_packed_weights_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fuse(build("Llama").to(torch.float64), torch.float64) == 0
