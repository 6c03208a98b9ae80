"""Laws of the engine on a GPU, told without one: the kernels do what torch does, graphs change
nothing, and draws are the host's.
"""

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tests.kernels.executor import CACHE, needs_compiler
from tests.llm.host_launcher import HostCapturer, HostLauncher, host_kernels
from tests.llm.plan_driver import PlanDriver
from tests.llm.tiny_models import build, prompts

from penstock_kernels.cache_write import CACHE_WRITE
from penstock_kernels.eight_bits import stored, widened
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference
from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm import attention
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.cuda_graphs import DecodeGraphs, batch_sizes
from penstock_runtime.llm.device_kernels import device_kernels
from penstock_runtime.llm.kv_pool import LayerCache, LayerShape
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.quantised_linear import QuantisedLinear, multiply_tiles
from penstock_runtime.llm.quantised_weight import quantise_weight
from penstock_runtime.llm.runner import PagedRunner

CPU = torch.device("cpu")
# The model is not at fault that a test's context is shorter than the one it was made for.
pytestmark = pytest.mark.filterwarnings("ignore")
HOSTS = [
    pytest.param(Reference(), id="reference"),
    pytest.param(Emulated(CACHE, order=5), id="emulated", marks=needs_compiler),
]


def options(kind: str = "auto") -> EngineOptions:
    return EngineOptions(block_size=4, cpu_kernels="off", kv_cache_dtype=kind)


def half(family: str) -> LoadedCausalModel:
    return prepare(build(family).half(), options())


def on_kernels(runner: PagedRunner) -> HostLauncher:
    """Have this runner compute as on a GPU."""
    launcher = HostLauncher()
    runner.device = host_kernels(launcher)
    return launcher


def with_graphs(runner: PagedRunner, capturer: HostCapturer) -> DecodeGraphs:
    runner.graphs = DecodeGraphs(runner.decoded, capturer, CPU, most_rows=8, pages=30, block_size=4)
    return runner.graphs


def logits_of(runner: PagedRunner, steps: int = 6) -> list[torch.Tensor]:
    """Those of all steps in which four texts go on as if they were greedy."""
    recording: Any = _Recording(runner)
    driver = PlanDriver(recording, chunk=16)
    for prompt in prompts()[:4]:
        driver.add(prompt, steps)
    driver.run()
    seen: list[torch.Tensor] = recording.seen
    return seen


class _Recording:
    """A runner that keeps its logits."""

    def __init__(self, runner: PagedRunner) -> None:
        self._runner = runner
        self.pool = runner.pool
        self.seen: list[torch.Tensor] = []

    def run(self, plan: Any) -> torch.Tensor:
        logits = self._runner.run(plan)
        self.seen.append(logits.clone())
        return logits


@pytest.mark.parametrize("kind", ["auto", "int8", "fp8"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GptOss"])
def test_a_model_on_the_kernels_gives_the_logits_it_gives_in_torch(family: str, kind: str) -> None:
    loaded = half(family)
    expected = logits_of(PagedRunner(loaded, options(kind), 60))
    runner = PagedRunner(loaded, options(kind), 60)
    launcher = on_kernels(runner)

    found = logits_of(runner)

    assert launcher.calls["paged_decode"] > 0
    assert launcher.calls["cache_write"] >= launcher.calls["paged_decode"]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 0.02 * other.abs().max()


@needs_compiler
@pytest.mark.parametrize(("family", "kind"), [("Llama", "auto"), ("Gemma2", "int8")])
def test_a_model_whose_heads_tensor_cores_take_gives_its_logits_by_the_source_itself(
    family: str, kind: str
) -> None:
    """Soft caps, windows and pages of four tokens, by CUDA source on this CPU."""
    loaded = prepare(build(family, head_dim=64).half(), options())
    expected = logits_of(PagedRunner(loaded, options(kind), 60), steps=3)
    runner = PagedRunner(loaded, options(kind), 60)
    launcher = HostLauncher(Emulated(CACHE, order=5))
    runner.device = host_kernels(launcher)

    found = logits_of(runner, steps=3)

    assert launcher.calls["paged_decode"] > 0
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 0.02 * other.abs().max()


def test_graphs_give_what_steps_give_and_are_captured_once_for_each_size() -> None:
    loaded = half("Llama")
    plain, runner = PagedRunner(loaded, options(), 60), PagedRunner(loaded, options(), 60)
    on_kernels(plain)
    on_kernels(runner)
    capturer = HostCapturer()
    graphs = with_graphs(runner, capturer)

    found, expected = logits_of(runner), logits_of(plain)

    assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(found, expected, strict=True))
    assert 0 < capturer.captured <= len(graphs.sizes)
    once = capturer.captured
    logits_of(runner)
    assert capturer.captured == once


def test_a_step_that_no_kernel_attends_in_is_never_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A graph of torch's own attention would see one page of every row, whatever its length."""
    loaded = prepare(build("Llama").float(), options())
    plain, runner = PagedRunner(loaded, options(), 60), PagedRunner(loaded, options(), 60)
    on_kernels(runner)
    graphs = with_graphs(runner, HostCapturer())

    found, expected = logits_of(runner), logits_of(plain)

    assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(found, expected, strict=True))
    assert graphs.broken
    assert "no kernel attends in torch.float32 with heads of" in caplog.text


def test_a_padded_row_keeps_nothing() -> None:
    """Three texts in a graph of four: no slot but theirs is written."""
    loaded = half("Llama")
    runner = PagedRunner(loaded, options(), 60)
    on_kernels(runner)
    with_graphs(runner, HostCapturer())
    driver = PlanDriver(runner, chunk=16)
    texts = [driver.add(prompt, 6) for prompt in prompts()[:3]]
    driver.run()

    used = sum(-(-(len(text.tokens) - 1) // 4) for text in texts)
    written = (runner.pool.layers[0].keys.abs().amax((1, 2, 3)) > 0).sum()

    assert 0 < int(written) <= used


def test_a_step_that_cannot_be_captured_is_computed_as_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = half("Llama")
    runner = PagedRunner(loaded, options(), 60)
    on_kernels(runner)
    graphs = with_graphs(runner, HostCapturer(most=0))

    found = logits_of(runner)

    assert len(found) > 0
    assert graphs.broken
    assert caplog.text.count("without CUDA graphs: operation not permitted") == 1


def test_graphs_that_there_are_go_on_where_a_larger_one_cannot_be_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Texts that come one by one are the same; steps of more rows are computed as any other."""
    texts = []
    for most in (0, 2):
        runner = PagedRunner(half("Llama"), options(), 60)
        on_kernels(runner)
        graphs = with_graphs(runner, HostCapturer(most))
        driver = PlanDriver(runner, arrive_every=3)
        made = [driver.add(prompt, 12) for prompt in prompts()[:4]]
        driver.run()
        texts.append([text.tokens for text in made])

    assert texts[0] == texts[1]
    assert graphs.sizes == (1, 2)
    assert caplog.text.count("decode steps of more than 2 rows run without CUDA graphs") == 1


def test_the_logits_of_all_graphs_lie_in_one_place() -> None:
    """Else each size would keep its own, and a vocabulary is large."""
    runner = PagedRunner(half("Llama"), options(), 60)
    on_kernels(runner)
    graphs = with_graphs(runner, HostCapturer())
    driver = PlanDriver(runner, arrive_every=3)
    for prompt in prompts()[:4]:
        driver.add(prompt, 12)
    driver.run()

    outputs = [graph.output for graph, _ in graphs._graphs.values()]

    assert len(outputs) >= 3
    assert len({output.data_ptr() for output in outputs}) == 1


def test_a_models_sinks_are_kept_as_long_as_the_model() -> None:
    """Made once, and gone with it: kernels outlive models."""
    kernels = host_kernels(HostLauncher())
    sinks = torch.ones(4, dtype=torch.bfloat16)
    form = Form(1.0, sinks=sinks)

    made = kernels._float_sinks(form)

    assert made is kernels._float_sinks(form)
    assert made is not None
    assert made.dtype is torch.float32
    del sinks, form
    gc.collect()
    assert not kernels._sinks


@pytest.mark.parametrize(("tokens", "context"), [(1, 7), (3, 7), (7, 7), (5, 40)])
def test_a_mask_by_name_is_the_mask_by_numbers(tokens: int, context: int) -> None:
    """The last tokens of a context, with heads that share keys."""
    q, form = torch.randn(tokens, 8, 16), Form(0.3)
    k, v = torch.randn(2, context, 2, 16)
    places, first = torch.arange(context)[None], context - tokens
    mask = places <= torch.arange(first, context)[:, None]

    named = attention._dense(q, k, v, attention.causal_mask(tokens, context), form, causal=False)
    written = attention._dense(q, k, v, mask, form, causal=False)

    assert torch.allclose(named, written, atol=1e-6)


def test_sizes_of_graphs_hold_every_batch_and_waste_little() -> None:
    """At most a quarter of a large batch is padding, and the largest is as large as asked for."""
    for most in (1, 3, 64, 200, 256, 1000):
        sizes = batch_sizes(most)
        assert sizes[-1] == most
        assert list(sizes) == sorted(set(sizes))
        for rows in range(33, most + 1):
            assert min(size for size in sizes if size >= rows) <= rows * 1.35


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", [None, torch.int8, torch.float8_e4m3fn])
def test_what_the_kernel_stores_is_what_torch_stores(host: Any, kind: Any) -> None:
    """To the byte: pages may be written by one and read by the other."""
    shape = LayerShape(2, 64, 64)
    caches = [LayerCache(shape, 3, 4, torch.bfloat16, kind, CPU) for _ in range(2)]
    k, v = torch.randn(2, 5, 2, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    k[0, 0], v[1] = 0, v[1] * 1e-20
    slots = torch.tensor([7, 0, 3, 11, 4])
    launcher = HostLauncher(host)

    caches[0].store(k, v, slots)
    host_kernels(launcher).store(caches[1], k, v, slots)

    for name in ("keys", "values", "key_scales", "value_scales"):
        one, other = (getattr(cache, name) for cache in caches)
        if one is not None:
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    assert launcher.calls == {CACHE_WRITE.name: 1}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows_are_multiplied_by_the_kernel_and_many_by_torch(host: Any, bits: int) -> None:
    weight = quantise_weight(torch.randn(24, 512, generator=torch.Generator().manual_seed(1)), bits)
    layer = QuantisedLinear(weight, torch.arange(24.0), sizes=[16, 8])
    launcher = HostLauncher(host)
    layer.device_kernels = host_kernels(launcher)

    for rows in (1, 3, 9, 64, 65):
        x = torch.randn(1, rows, 512, generator=torch.Generator().manual_seed(rows)).half()
        expected = multiply_tiles(x[0], weight, layer.bias)

        assert torch.allclose(layer(x)[0].float(), expected.float(), rtol=4e-3, atol=0.1)
    assert launcher.calls == {"gemv": 4}


def test_kernels_are_refused_by_name_where_they_are_required() -> None:
    """A CPU has none: auto does without, require says so, and a wrong word is told."""
    assert device_kernels("auto", CPU) is None
    assert device_kernels("off", torch.device("cuda")) is None
    with pytest.raises(FailedPrecondition, match="cuda_kernels is 'require', but the model is on"):
        device_kernels("require", CPU)
    with pytest.raises(InvalidArgument, match="cuda_kernels is 'fast', expected one of"):
        device_kernels("fast", CPU)


def test_e4m3_is_that_of_ml_dtypes() -> None:
    """All 256 numbers, and every float halfway to the next, with a hair to either side."""
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    numbers = np.sort(every.astype(np.float32)[np.isfinite(every.astype(np.float32))])
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = np.concatenate([numbers, middles, *(np.nextafter(middles, s) for s in (-999, 999))])
    near = near.astype(np.float32)

    found = stored(near, every.dtype)

    finite = np.isfinite(every.astype(np.float32))
    assert (widened(every)[finite] == every.astype(np.float32)[finite]).all()
    assert found.tobytes() == near.astype(every.dtype).tobytes()
