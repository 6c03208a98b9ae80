"""A Llama of 8 B random parameters made on the GPU: decode at 1, 64 and 256 rows in torch alone, by
our kernels, and by graphs of them; prefill; the same with int8 and int4 weights; 32 long answers
by us, each step launched ahead or one by one, and by transformers' continuous batching.

    python -m benchmarks.gpu.language --out FOLDER

`Shape` also makes a small one, by which this file is tested on a CPU.
"""

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.gpu.answers import PROMPT, Answers
from benchmarks.gpu.answers import WAYS as ANSWERS
from benchmarks.gpu.figures import Figures, folder

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence as Text
from penstock_runtime.llm.step import Row, StepPlan

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the model and the work."""

    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    inner: int = 14336
    vocabulary: int = 128256
    context: int = 1024
    rows: tuple[int, ...] = (1, 64, 256)
    prompt: int = 2048
    answers: int = 32
    answer_tokens: int = 256
    steps: int = 12


def build(shape: Shape, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The module of transformers, its weights drawn where they are to lie."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=8192,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def options(**more: Any) -> EngineOptions:
    """An engine's, with room for 256 rows."""
    return replace(EngineOptions(block_size=BLOCK, max_num_seqs=256, max_model_len=4096), **more)


def runner_of(loaded: LoadedCausalModel, shape: Shape, **more: Any) -> PagedRunner:
    """With pages for all that is asked of it."""
    return PagedRunner(loaded, options(**more), blocks_of(shape))


def blocks_of(shape: Shape) -> int:
    """Of the widest step, of the answers, of which none should have to wait, or of the prompt."""
    widest = max(shape.rows) * _pages(shape.context + 1)
    answers = shape.answers * _pages(2 * PROMPT + shape.answer_tokens)
    return max(widest, answers, _pages(shape.prompt))


def _pages(length: int) -> int:
    """Of a text of so many tokens, and a few more."""
    return -(-(length + BLOCK) // BLOCK)


def texts(count: int, length: int, params: SamplingParams | None = None) -> list[Text]:
    """Texts of one length, each with pages of its own for a few tokens more."""
    pages = _pages(length)
    made = []
    for i in range(count):
        text = Text(i, [7] * length, params or SamplingParams(temperature=0), max_tokens=1, seed=i)
        text.blocks = list(range(i * pages, (i + 1) * pages))
        made.append(text)
    return made


def decode(runner: PagedRunner, rows: int, shape: Shape) -> dict[str, float]:
    """Milliseconds of a step that decodes a token of each row, tokens read by the host; and tokens
    a second.
    """
    made = texts(rows, shape.context + 1)
    plan = StepPlan(tuple(Row(text, shape.context, 1, logits=1, samples=True) for text in made))
    spans = []
    for _ in range(shape.steps + 3):
        began = time.perf_counter()
        runner.run(plan).argmax(-1).tolist()
        spans.append(time.perf_counter() - began)
    ms = statistics.median(spans[3:]) * 1e3
    return {"ms": round(ms, 3), "tokens_per_s": round(rows / ms * 1e3, 1)}


def prefill(runner: PagedRunner, shape: Shape) -> dict[str, float]:
    """Milliseconds of one prompt in one step."""
    text = texts(1, shape.prompt)[0]
    plan = StepPlan((Row(text, 0, shape.prompt, logits=1, samples=True),))
    spans = []
    for _ in range(5):
        began = time.perf_counter()
        runner.run(plan).argmax(-1).tolist()
        spans.append(time.perf_counter() - began)
    ms = statistics.median(spans[2:]) * 1e3
    return {"ms": round(ms, 3), "tokens_per_s": round(shape.prompt / ms * 1e3, 1)}


def by_transformers(module: Any, shape: Shape) -> dict[str, float]:
    """The same answers by continuous batching of transformers."""
    from transformers import GenerationConfig

    module.set_attn_implementation("sdpa")
    config = GenerationConfig(
        max_new_tokens=shape.answer_tokens,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
    )
    prompts = [[7] * PROMPT for _ in range(shape.answers)]
    module.generate_batch(prompts[:1], generation_config=config)
    began = time.perf_counter()
    found = module.generate_batch(prompts, generation_config=config)
    spent = time.perf_counter() - began
    tokens = sum(len(output.generated_tokens) for output in found.values())
    return {"seconds": round(spent, 3), "tokens_per_s": round(tokens / spent, 1)}


WAYS: dict[str, dict[str, Any]] = {
    "torch alone": {"cuda_kernels": "off"},
    "kernels": {"cuda_graphs": False},
    "graphs": {},
    "graphs, fp8 cache": {"kv_cache_dtype": "fp8"},
}


def measure(figures: Figures, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
    """All figures, the shortest first."""
    module = build(shape, device, dtype)
    loaded = prepare(module, options())
    for way in WAYS:
        by(way, figures, loaded, shape)
        _free(device)
    del loaded
    figures.add("answers, transformers", lambda: by_transformers(module, shape))
    for scheme in ("int8", "int4"):
        figures.add(f"decode 1, {scheme}", lambda s=scheme: _quantised(shape, s, device, dtype))  # type: ignore[misc]


def by(way: str, figures: Figures, loaded: LoadedCausalModel, shape: Shape) -> None:
    """The figures of one way; without its pages there is none."""
    made: list[PagedRunner] = []

    def pages() -> int:
        made.append(runner_of(loaded, shape, **WAYS[way]))
        return made[0].memory_bytes

    figures.add(f"bytes of pages, {way}", pages)
    for runner in made:
        for rows in shape.rows:
            figures.add(f"decode {rows}, {way}", lambda n=rows, r=runner: decode(r, n, shape))  # type: ignore[misc]
        if way == "graphs":
            figures.add("prefill", lambda r=runner: prefill(r, shape))  # type: ignore[misc]
            answers = Answers(runner, shape.answers, shape.answer_tokens, shape.vocabulary)
            for name in ANSWERS:
                figures.add(f"answers, {name}", lambda a=answers, n=name: a.time(n))  # type: ignore[misc]


def _quantised(
    shape: Shape, scheme: str, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Of a model with fewer bits, which is made anew: it is quantised in place."""
    loaded = prepare(build(shape, device, dtype), options(quantization=scheme))
    return decode(runner_of(loaded, replace(shape, rows=(1,))), 1, shape)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write."""
    figures = Figures(folder(words, __doc__), "language")
    measure(figures, Shape(), torch.device("cuda"), torch.bfloat16)
    return int(figures.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
