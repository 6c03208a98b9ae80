"""Laws of the engine on a GPU; skipped without one. What the same seams are told on a CPU by fakes
is in tests/llm/test_device_kernels.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.gpu.answers import WAYS, Answers
from tests.kernels.executor import CACHE, needs_compiler
from tests.kernels.laws_sample import sampling
from tests.kernels.test_cuda import RoundTrip
from tests.llm.plan_driver import PlanDriver
from tests.llm.sampling_fakes import row_of, sequence
from tests.llm.tiny_models import build, prompts

from penstock_kernels.device import cuda_device_count, find_cupy
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.registry import kernel
from penstock_kernels.run import load
from penstock_runtime.llm.device_kernels import device_kernels
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.kv_pool import LayerCache, LayerShape
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.packing import Feed
from penstock_runtime.llm.quantised_linear import QuantisedLinear, multiply_tiles
from penstock_runtime.llm.quantised_weight import quantise_weight
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.step import StepPlan

GREEDY = SamplingParams(temperature=0.0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device_count() == 0, reason="no CUDA device: the driver shows none"),
    pytest.mark.filterwarnings("ignore"),
]


def _cuda() -> torch.device:
    return torch.device("cuda", 0)


def _kernels() -> Any:
    found = device_kernels("require", _cuda())
    assert found is not None
    return found


def _logits(family: str, **how: Any) -> tuple[PagedRunner, list[torch.Tensor]]:
    """Of all steps of four texts."""
    options = EngineOptions(block_size=4, max_num_seqs=8, **how)
    runner = PagedRunner(prepare(build(family).half().to(_cuda()), options), options, 60)
    seen: list[torch.Tensor] = []
    run = runner.run

    def recorded(plan: StepPlan, feed: Feed | None = None) -> torch.Tensor:
        seen.append(run(plan, feed).clone())
        return seen[-1]

    runner.run = recorded  # type: ignore[method-assign]
    driver = PlanDriver(runner, chunk=16)
    for prompt in prompts()[:4]:
        driver.add(prompt, 8)
    driver.run()
    return runner, [logits.cpu() for logits in seen]


@pytest.mark.parametrize("kind", ["auto", "int8", "fp8"])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Mistral", "Gemma2"])
def test_graphs_and_kernels_give_what_torch_gives(family: str, kind: str) -> None:
    _, torch_alone = _logits(family, cuda_kernels="off", kv_cache_dtype=kind)
    _, eager = _logits(family, cuda_kernels="require", cuda_graphs=False, kv_cache_dtype=kind)
    runner, graphed = _logits(family, cuda_kernels="require", kv_cache_dtype=kind)

    assert runner.graphs is not None
    assert not runner.graphs.broken
    for one, other, third in zip(torch_alone, eager, graphed, strict=True):
        assert (other - one).abs().max() <= 0.02 * one.abs().max()
        assert (third - other).abs().max() <= 0.01 * one.abs().max()


@pytest.mark.parametrize("stored", [None, torch.int8, torch.float8_e4m3fn])
def test_pages_are_written_as_by_torch_to_the_byte(stored: Any) -> None:
    caches = [
        LayerCache(LayerShape(8, 128, 128), 64, 16, torch.bfloat16, stored, _cuda())
        for _ in range(2)
    ]
    k, v = torch.randn(2, 100, 8, 128, device=_cuda()).bfloat16()
    slots = torch.randperm(1024, device=_cuda())[:100]

    caches[0].store(k, v, slots)
    _kernels().store(caches[1], k, v, slots)

    assert torch.equal(caches[0].keys.view(torch.uint8), caches[1].keys.view(torch.uint8))
    assert torch.equal(caches[0].values.view(torch.uint8), caches[1].values.view(torch.uint8))


@pytest.mark.parametrize("bits", [8, 4])
def test_products_are_those_of_torch(bits: int) -> None:
    weight = quantise_weight(torch.randn(512, 1024, device=_cuda()), bits)
    layer = QuantisedLinear(weight, torch.randn(512, device=_cuda()))
    x = torch.randn(5, 1024, device=_cuda()).bfloat16()

    found, expected = layer(x).float(), multiply_tiles(x, weight, layer.bias).float()

    assert layer.device_kernels is not None
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_draws_are_those_of_the_host() -> None:
    vocabulary = 32000
    texts = [
        sequence(SamplingParams(temperature=0.5 + i / 20, top_k=3 + i), seed=i) for i in range(40)
    ]
    plan = StepPlan(tuple(row_of(text) for text in texts))
    logits = torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(1)) * 3

    expected = Sampler(vocabulary).sample(plan, logits.clone())
    device = Sampler(vocabulary, device=DeviceSampler(_kernels()))
    found = device.sample(plan, logits.to(_cuda()))

    same = sum(a.tokens == b.tokens for a, b in zip(found, expected, strict=True))
    # The logarithm of a GPU is off by a unit in the last place: one draw in many is a tie of that.
    assert same >= 39


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.8, top_k=20)])
def test_steps_launched_ahead_give_the_texts_of_steps_one_by_one(params: SamplingParams) -> None:
    """By graphs, over many steps: no copy is overtaken by the next step's."""
    options = EngineOptions(block_size=4, max_num_seqs=8)
    loaded = prepare(build("Llama").half().to(_cuda()), options)
    runner = PagedRunner(loaded, options, 8 * 64)
    answers = Answers(runner, 8, 150, loaded.vocab_size, params)
    found = {}
    for way in WAYS:
        answers.time(way)
        found[way] = answers.texts

    assert runner.graphs is not None
    assert not runner.graphs.broken
    assert found["ahead"] == found["one by one"]
    assert all(len(text) == 150 for text in found["ahead"])


@needs_compiler
def test_the_device_draws_what_the_executor_draws() -> None:
    logits = np.random.default_rng(1).standard_normal((30, 700)).astype(np.float32) * 2
    calls = [sampling(logits, top_p=np.full(30, 0.9, np.float32)) for _ in range(2)]

    Emulated(CACHE).run(kernel("sample"), calls[0])
    RoundTrip(load("cuda"), find_cupy()).run(kernel("sample"), calls[1])

    assert (calls[0]["token"] == calls[1]["token"]).sum() >= 29
