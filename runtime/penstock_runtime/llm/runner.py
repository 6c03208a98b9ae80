"""Runs a model over the rows of a plan, packed, with the keys and values of all sequences in pages.
Knows nothing of how a plan came about, nor of what becomes of the logits.
"""

import inspect
from typing import Any

import torch

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm import attention, kv_pool
from penstock_runtime.llm.attention import PagedStep
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.cpu_kernels import kernels_for
from penstock_runtime.llm.cuda_graphs import CudaCapturer, DecodeGraphs
from penstock_runtime.llm.device_kernels import device_kernels
from penstock_runtime.llm.kv_pool import KvPool
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.packing import Feed, PackedBatch, pack
from penstock_runtime.llm.step import StepPlan

# What a table of a graph is made for where a model sets no limit.
MOST_TOKENS = 1 << 17


def block_bytes(model: LoadedCausalModel, options: EngineOptions) -> int:
    """Bytes that one block of tokens takes over all layers, to size a pool by."""
    return kv_pool.block_bytes(
        model.shapes, options.block_size, model.dtype, options.kv_cache_dtype
    )


class PagedRunner:
    """A model and its pages. Owned by the engine's thread."""

    def __init__(self, model: LoadedCausalModel, options: EngineOptions, n_blocks: int) -> None:
        if not model.paged:
            raise InvalidArgument(f"the model does not run over pages: {model.reason}")
        self.loaded = model
        self.model = model.model
        self.model.set_attn_implementation(attention.NAME)
        self.pool = KvPool(
            model.shapes,
            n_blocks,
            options.block_size,
            model.dtype,
            model.device,
            options.kv_cache_dtype,
        )
        self.kernels = kernels_for(options.cpu_kernels, model.device, model.dtype)
        self.device = device_kernels(options.cuda_kernels, model.device)
        self.graphs = self._decode_graphs(options)
        self._picks = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    block_bytes = staticmethod(block_bytes)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the pages; the weights are the model's."""
        return self.pool.memory_bytes

    @torch.inference_mode()
    def run(self, plan: StepPlan, feed: Feed | None = None) -> torch.Tensor:
        """float32 [logits, vocabulary]: those that the rows want, one row after the other. `feed`
        has the tokens that are foreseen in them.
        """
        if self.graphs is not None:
            logits = self.graphs.run(plan, feed)
            if logits is not None:
                return logits
        batch = pack(plan, self.pool.block_size, self.loaded.device, feed)
        if not batch.n_tokens:
            return self._nothing()
        step = PagedStep(batch, self.pool, self.kernels, self.device)
        if not batch.wanted.shape[0]:
            self._forward(self.model.base_model, step)
            return self._nothing()
        return self._logits(batch, step).float()

    def _decode_graphs(self, options: EngineOptions) -> DecodeGraphs | None:
        """Graphs of decode steps, where the kernels do all that lies between the model's parts;
        adapters change between steps, and a graph would not see it.
        """
        if self.device is None or not options.cuda_graphs or options.adapters:
            return None
        capturer = CudaCapturer(self.loaded.device)
        longest = min(
            self.loaded.max_model_len or MOST_TOKENS, self.pool.n_blocks * options.block_size
        )
        return DecodeGraphs(
            self.decoded,
            capturer,
            self.loaded.device,
            most_rows=options.max_num_seqs,
            pages=-(-longest // options.block_size),
            block_size=options.block_size,
        )

    def decoded(self, batch: PackedBatch) -> torch.Tensor:
        """The logits of a batch, and nothing that a graph could not record."""
        step = PagedStep(batch, self.pool, None, self.device, recorded=True)
        return self._logits(batch, step).float()

    def _logits(self, batch: PackedBatch, step: PagedStep) -> torch.Tensor:
        if self._picks:
            found = self._forward(self.model, step, logits_to_keep=batch.wanted)
            logits: torch.Tensor = found.logits[0]
            return logits
        every: torch.Tensor = self._forward(self.model, step).logits[0]
        return every[batch.wanted]

    def _forward(self, module: torch.nn.Module, step: PagedStep, **more: torch.Tensor) -> Any:
        batch = step.batch
        return module(
            input_ids=batch.input_ids,
            position_ids=batch.positions,
            use_cache=False,
            paged=step,
            **more,
        )

    def _nothing(self) -> torch.Tensor:
        return torch.zeros(0, self.loaded.vocab_size, device=self.loaded.device)

    def __repr__(self) -> str:
        return f"<PagedRunner of {type(self.model).__name__} over {self.pool!r}>"
