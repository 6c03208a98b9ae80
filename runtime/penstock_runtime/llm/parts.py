"""What the engine of one instance is made of, on its device: the only place where all of it meets.

Imports torch and transformers.
"""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.engine import Engine
from penstock_runtime.llm.engine_seams import Proposer, StepWatcher
from penstock_runtime.llm.model_loader import Progress, load_causal_model
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.policy import make_policy
from penstock_runtime.llm.preparing import no_adapters
from penstock_runtime.llm.runner import PagedRunner, block_bytes
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.structured import Grammars
from penstock_runtime.llm.threads import thread_count
from penstock_runtime.llm.tokenizer import Tokenizer, load_tokenizer

_log = logging.getLogger("penstock.llm")

# Without a size of its own a cache takes so much on a CPU, and this part of what a GPU has free.
CPU_CACHE_BYTES = 1 << 30
GPU_CACHE_SHARE = 0.9
# Tokens of a step: as many as a CPU computes without keeping those waiting who generate.
CPU_STEP, GPU_STEP = 256, 4096


class PagedParts:
    """An engine over pages: weights, cache, batcher, sampler."""

    def __init__(
        self, model: LoadedCausalModel, tokenizer: Tokenizer, options: EngineOptions
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = model.vocab_size
        self._options = options
        self._model = model
        blocks = n_blocks(model, options)
        self._runner = PagedRunner(model, options, blocks)
        self.grammars = Grammars(tokenizer, model.vocab_size)
        capacity = blocks * options.block_size
        self.room = min(model.max_model_len or capacity, capacity)
        self._pool = BlockPool(blocks, options.block_size, options.prefix_caching)
        self.cache_config: Mapping[str, str] = MappingProxyType(
            {
                "block_size": str(options.block_size),
                "cache_dtype": options.kv_cache_dtype,
                "enable_prefix_caching": str(options.prefix_caching),
                "num_blocks": str(blocks),
            }
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights and pages."""
        return self._model.memory_bytes + self._runner.memory_bytes

    def engine(self, name: str, watcher: StepWatcher, prepare: Callable[[], None]) -> Engine:
        """The engine itself."""
        ends = self._model.eos_token_ids | frozenset(self.tokenizer.eos_token_ids)
        sampler = Sampler(
            self.vocab_size,
            ends,
            tokenise=lambda text: self.tokenizer.encode(text, special=False),
        )
        batcher = ContinuousBatcher(self._pool, self._limits(), make_policy(self._options.policy))
        proposer = make_proposer(self._options)
        return Engine(name, self._runner, batcher, sampler, watcher, ends, proposer, prepare)

    def check_adapter(self, name: str) -> None:
        """Raise what refuses an adapter of this name."""
        no_adapters(name)

    def close(self) -> None:
        """Give back what it holds."""
        self.grammars.close()

    def _limits(self) -> Limits:
        options = self._options
        step = CPU_STEP if self._model.device.type == "cpu" else GPU_STEP
        return Limits(
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_batched_tokens or max(step, options.max_num_seqs),
            long_prefill_cap=options.long_prefill_cap,
            max_queued_requests=options.max_queued_requests,
            max_queued_tokens=options.max_queued_tokens,
            max_model_len=self.room,
            watermark=options.watermark,
        )


def make_parts(
    source: ModelSource, options: EngineOptions, device: str, progress: Progress
) -> PagedParts:
    """All that an engine on this device is made of. Raises what prevents it."""
    torch.set_num_threads(thread_count(options.threads))
    tokenizer = load_tokenizer(source.directory)
    model = load_causal_model(source.directory, options, device, progress)
    if not model.paged:
        raise InvalidArgument(f"model '{source.config.name}' cannot be served: {model.reason}")
    return PagedParts(model, tokenizer, options)


def make_proposer(options: EngineOptions) -> Proposer | None:
    """Whoever guesses tokens ahead, if that is asked for."""
    method = options.speculative_method
    if method == "ngram":
        return NgramProposer(options.speculative_tokens)
    if method != "none":
        raise InvalidArgument(
            f"speculative_method is {method[:64]!r}, expected none, ngram or draft_model"
        )
    return None


def n_blocks(model: LoadedCausalModel, options: EngineOptions) -> int:
    """How many blocks the cache has: as many as were asked for, else as many as memory allows and
    the sequences that may run can use.
    """
    size = options.block_size
    if options.kv_cache_tokens:
        return -(-options.kv_cache_tokens // size)
    budget = options.kv_cache_bytes or _spare_bytes(model.device)
    most = budget // block_bytes(model, options)
    length = model.max_model_len or most * size
    used = options.max_num_seqs * -(-length // size)
    if most < 1:
        raise InvalidArgument(f"{budget} bytes hold no block of the KV cache")
    return int(min(most, used))


def _spare_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_CACHE_SHARE)
