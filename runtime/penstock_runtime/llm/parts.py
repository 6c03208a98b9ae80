"""What the engine of one instance is made of, on its device: the only place where all of it meets.

Imports torch and transformers.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.adapter_gate import AdaptedRunner, AdapterGate
from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.engine import Engine
from penstock_runtime.llm.engine_seams import FedRunner, Proposer, StepWatcher
from penstock_runtime.llm.fallback import FallbackRunner
from penstock_runtime.llm.lora import Adapters
from penstock_runtime.llm.model_loader import Progress, load_causal_model
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.policy import make_policy
from penstock_runtime.llm.preparing import no_adapters
from penstock_runtime.llm.runner import PagedRunner, block_bytes
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.serial_engine import SerialEngine
from penstock_runtime.llm.speculative.draft import DraftProposer
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.stepping import Steps, StepsAhead
from penstock_runtime.llm.structured import Grammars
from penstock_runtime.llm.threads import thread_count
from penstock_runtime.llm.tokenizer import Tokenizer, load_tokenizer

_log = logging.getLogger("penstock.llm")

# Without a size of its own a cache takes so much on a CPU, and this part of what a GPU has free.
CPU_CACHE_BYTES = 1 << 30
GPU_CACHE_SHARE = 0.9
# Tokens of a step: as many as a CPU computes without keeping those waiting who generate.
CPU_STEP, GPU_STEP = 256, 4096
# What a model without a limit may have in one text.
UNBOUNDED = 1 << 20


class PagedParts:
    """An engine over pages: weights, cache, batcher, sampler. `root` is the folder that adapters
    are in, `draft` a small model that guesses ahead.
    """

    def __init__(
        self,
        model: LoadedCausalModel,
        tokenizer: Tokenizer,
        options: EngineOptions,
        root: Path,
        draft: LoadedCausalModel | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = model.vocab_size
        self._options = options
        self._model = model
        self._adapters = Adapters(model.model, options, root) if options.adapters else None
        self._gate = AdapterGate(self._adapters) if self._adapters is not None else None
        blocks = n_blocks(model, options, draft)
        self._runner = PagedRunner(model, options, blocks)
        self._draft = DraftParts(draft, options, blocks) if draft is not None else None
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
        draft = self._draft.memory_bytes if self._draft is not None else 0
        return self._model.memory_bytes + self._runner.memory_bytes + draft

    def engine(self, name: str, watcher: StepWatcher, prepare: Callable[[], None]) -> Engine:
        """The engine itself."""
        ends = self._model.eos_token_ids | frozenset(self.tokenizer.eos_token_ids)
        proposer = self._proposer()
        sampler = Sampler(
            self.vocab_size,
            ends,
            tokenise=lambda text: self.tokenizer.encode(text, special=False),
            proposals=proposer if isinstance(proposer, DraftProposer) else None,
            device=DeviceSampler(self._runner.device) if self._runner.device else None,
        )
        limits = limits_of(self._options, self._model, self.room)
        batcher = ContinuousBatcher(self._pool, limits, make_policy(self._options.policy))
        steps = self._steps(sampler, ahead=proposer is None)
        return Engine(name, steps, batcher, watcher, ends, proposer, prepare, self._gate)

    def _steps(self, sampler: Sampler, ahead: bool) -> Steps:
        """Who computes; guesses follow from tokens that are known."""
        runner: FedRunner = self._runner
        if self._adapters is not None:
            runner = AdaptedRunner(runner, self._adapters)
        wanted = self._options.async_steps
        if ahead and (wanted == "on" or (wanted == "auto" and self._model.device.type == "cuda")):
            return StepsAhead(runner, sampler)
        return Steps(runner, sampler)

    def _proposer(self) -> Proposer | None:
        """Whoever guesses tokens ahead, if that is asked for."""
        options = self._options
        if self._draft is not None:
            return self._draft.proposer(self.vocab_size, options.speculative_tokens)
        if options.speculative_method == "ngram":
            return NgramProposer(options.speculative_tokens)
        return None

    def check_adapter(self, name: str) -> None:
        """Raise what refuses an adapter of this name."""
        if self._gate is None:
            no_adapters(name)
        else:
            self._gate.check(name)

    def close(self) -> None:
        """Give back what it holds."""
        self.grammars.close()


class DraftParts:
    """A small model that guesses ahead, with pages of its own for as many tokens as the large one's
    hold.
    """

    def __init__(self, model: LoadedCausalModel, options: EngineOptions, blocks: int) -> None:
        self._model = model
        self._blocks = blocks
        self._size = options.block_size
        self._runner = PagedRunner(model, _plain(options), blocks)

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights and pages."""
        return self._model.memory_bytes + self._runner.memory_bytes

    def proposer(self, vocab_size: int, tokens: int) -> DraftProposer:
        """Who guesses by it."""
        return DraftProposer(
            self._runner,
            vocab_size=vocab_size,
            n_blocks=self._blocks,
            block_size=self._size,
            tokens=tokens,
        )


class SerialParts:
    """An engine of a model that does not run over pages: one text at a time."""

    def __init__(
        self, model: LoadedCausalModel, tokenizer: Tokenizer, options: EngineOptions
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = model.vocab_size
        self.room = model.max_model_len or UNBOUNDED
        self.memory_bytes = model.memory_bytes
        self.grammars = Grammars(tokenizer, model.vocab_size)
        self.cache_config: Mapping[str, str] = MappingProxyType({"num_blocks": "0"})
        self._model = model
        self._options = options

    def engine(self, name: str, watcher: StepWatcher, prepare: Callable[[], None]) -> SerialEngine:
        """The engine itself."""
        ends = self._model.eos_token_ids | frozenset(self.tokenizer.eos_token_ids)
        limits = limits_of(self._options, self._model, self.room)
        runner = FallbackRunner(self._model)
        return SerialEngine(name, runner, limits, watcher, ends, self._model.reason, prepare)

    def check_adapter(self, name: str) -> None:
        """Raise what refuses an adapter of this name."""
        no_adapters(name)

    def close(self) -> None:
        """Give back what it holds."""
        self.grammars.close()


def make_parts(
    source: ModelSource, options: EngineOptions, device: str, progress: Progress
) -> PagedParts | SerialParts:
    """All that an engine on this device is made of. Raises what prevents it."""
    torch.set_num_threads(thread_count(options.threads))
    _check_method(options)
    tokenizer = load_tokenizer(source.directory)
    model = load_causal_model(source.directory, options, device, progress)
    if model.paged:
        draft = _load_draft(source, options, device) if options.draft_model else None
        return PagedParts(model, tokenizer, options, source.directory, draft)
    for name in ("adapters", "draft_model"):
        if getattr(options, name):
            raise InvalidArgument(
                f"model '{source.config.name}' cannot have {name}: it generates one text at a time,"
                f" because {model.reason}"
            )
    return SerialParts(model, tokenizer, options)


def _check_method(options: EngineOptions) -> None:
    if options.async_steps not in ("auto", "on", "off"):
        raise InvalidArgument(
            f"async_steps is {options.async_steps[:64]!r}, expected auto, on or off"
        )
    method = options.speculative_method
    if method not in ("none", "ngram", "draft_model"):
        raise InvalidArgument(
            f"speculative_method is {method[:64]!r}, expected none, ngram or draft_model"
        )
    if (method == "draft_model") != bool(options.draft_model):
        raise InvalidArgument(
            f"speculative_method is {method} and draft_model is {options.draft_model[:64]!r},"
            " expected a folder for the method draft_model, and for no other"
        )


def _load_draft(source: ModelSource, options: EngineOptions, device: str) -> LoadedCausalModel:
    """The small model: a folder beside the weights of the large one."""
    home = source.directory.resolve()
    folder = (home / options.draft_model).resolve()
    if home not in folder.parents or not folder.is_dir():
        raise InvalidArgument(
            f"draft_model is {options.draft_model[:64]!r}, expected a folder in the version's"
        )
    model = load_causal_model(folder, _plain(options), device)
    if not model.paged:
        raise InvalidArgument(f"the draft model does not run over pages: {model.reason}")
    return model


def _plain(options: EngineOptions) -> EngineOptions:
    """The options as they are for a small model beside the one that they are of."""
    return replace(options, adapters="", quantization="none", kv_cache_dtype="auto")


def limits_of(options: EngineOptions, model: LoadedCausalModel, room: int) -> Limits:
    """The bounds of an engine whose texts have room for so many tokens."""
    step = CPU_STEP if model.device.type == "cpu" else GPU_STEP
    return Limits(
        max_num_seqs=options.max_num_seqs,
        max_batched_tokens=options.max_batched_tokens or max(step, options.max_num_seqs),
        long_prefill_cap=options.long_prefill_cap,
        max_queued_requests=options.max_queued_requests,
        max_queued_tokens=options.max_queued_tokens,
        max_model_len=room,
        watermark=options.watermark,
    )


def n_blocks(
    model: LoadedCausalModel, options: EngineOptions, draft: LoadedCausalModel | None = None
) -> int:
    """How many blocks the cache has: as many as were asked for, else as many as memory allows and
    the sequences that may run can use.
    """
    size = options.block_size
    if options.kv_cache_tokens:
        return -(-options.kv_cache_tokens // size)
    budget = options.kv_cache_bytes or _spare_bytes(model.device)
    each = block_bytes(model, options)
    if draft is not None:
        each += block_bytes(draft, _plain(options))
    most = budget // each
    length = model.max_model_len or most * size
    used = options.max_num_seqs * -(-length // size)
    if most < 1:
        raise InvalidArgument(f"{budget} bytes hold no block of the KV cache")
    return int(min(most, used))


def _spare_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return CPU_CACHE_BYTES
    # What torch only keeps is not in use, and not free to the driver either.
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_CACHE_SHARE)
