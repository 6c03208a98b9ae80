"""A generative model put together: weights, pages, batcher, sampler, engine, scribe; one of each
for every instance.

torch and transformers are imported when a model is loaded, and not before.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.backends.host import prepare_openmp
from penstock_runtime.errors import InvalidArgument, Unsupported
from penstock_runtime.llm.answers import Answers
from penstock_runtime.llm.chat import encode_chat
from penstock_runtime.llm.chat_messages import read_chat
from penstock_runtime.llm.detokenizer import TextStream
from penstock_runtime.llm.engine_seams import StepWatcher, Teller
from penstock_runtime.llm.executable import Compile, GeneratingEngine, GenerativeExecutable
from penstock_runtime.llm.generation import Texts
from penstock_runtime.llm.loading import import_alone
from penstock_runtime.llm.options import EngineOptions, read_options
from penstock_runtime.llm.preparing import Preparer
from penstock_runtime.llm.roster import BatcherStats
from penstock_runtime.llm.sampling_defaults import sampling_defaults
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.scribe import Scribe
from penstock_runtime.llm.threads import prepare_thread
from penstock_runtime.llm.watching import EngineWatcher, state_of
from penstock_runtime.observability.engine_metrics import EngineTally

_log = logging.getLogger("penstock.llm")

SECONDS_PER_HOUR = 3600.0
# How often the progress of a load is told.
_TELL_S = 2.0


class StartedEngine(GeneratingEngine, Protocol):
    """An engine that can be begun and asked how it is."""

    def start(self, teller: Teller) -> None:
        """Begin; what is generated is told there."""

    def stats(self) -> BatcherStats:
        """What runs, what waits, and how full the cache is."""


class Grammars(Protocol):
    """What makes grammars of forms."""

    compile: Compile


class Parts(Protocol):
    """What an engine is made of; see `parts`, which imports torch."""

    tokenizer: Any
    grammars: Grammars
    room: int
    vocab_size: int
    memory_bytes: int
    cache_config: Mapping[str, str]

    def engine(self, name: str, watcher: StepWatcher, prepare: Callable[[], None]) -> StartedEngine:
        """The engine itself."""

    def check_adapter(self, name: str) -> None:
        """Raise what refuses an adapter of this name."""

    def close(self) -> None:
        """Give back what it holds."""


def load(source: ModelSource) -> "GenerativeModel":
    """The model of a Hugging Face folder; its weights are read when its instances are made."""
    return GenerativeModel(source)


class GenerativeModel:
    """A version of a language model. Each instance has weights and an engine of its own."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._options = read_options(source.config)
        self._memory: dict[str, int] = {}

    def executable(self, placement: Placement) -> GenerativeExecutable:
        """A new instance; called in the thread that hands requests to it."""
        device = self._options.device or placement.device
        built = build_engine(self._source, self._options, device, placement.name)
        self._memory[device] = self._memory.get(device, 0) + built.memory_bytes
        return built.executable

    def close(self) -> None:
        """Nothing is shared by the instances."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of weights and pages per device."""
        return dict(self._memory)


@dataclass(frozen=True, slots=True)
class Built:
    """What `build_engine` made, and the bytes that it holds."""

    executable: GenerativeExecutable
    memory_bytes: int


class ModelText:
    """The words of one model: prompts to tokens, tokens to text."""

    def __init__(self, tokenizer: Any, template: str, room: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._room = room

    def encode(self, text: str, limit: int = 0) -> list[int]:
        """The tokens of a prompt, refused where they are surely more than `limit` (0: than fit)."""
        ids: list[int] = self._tokenizer.encode(text, limit=limit or self._room)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones among them left out."""
        text: str = self._tokenizer.decode(ids)
        return text

    def chat(self, chat: object) -> list[int]:
        """The tokens of a chat, as the model's template has it."""
        return encode_chat(self._tokenizer, read_chat(chat), self._template, self._room)

    def texts(self, params: SamplingParams, prompt: Sequence[int]) -> Texts:
        """Where the text of an answer to this prompt comes to be."""
        return TextStream(self._tokenizer, params, prompt)


class _Progress:
    """Tells how far the weights are read: whoever watches, and every few seconds the log."""

    def __init__(self, source: ModelSource) -> None:
        self._model = source.config.name
        self._reading = source.services.reading if source.services is not None else None
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._reading is not None:
            self._reading(self._model, done, total)
        now = time.monotonic()
        if now - self._told >= _TELL_S:
            self._told = now
            part = 100 * done // max(total, 1)
            _log.info("model '%s': %d %% of %d MiB read", self._model, part, total >> 20)


def build_engine(source: ModelSource, options: EngineOptions, device: str, name: str) -> Built:
    """One engine on one device, running. Raises what prevents it."""
    prepare_openmp()
    try:
        heavy = import_alone("penstock_runtime.llm.parts")
    except ImportError as error:
        raise Unsupported(
            "language models need torch, transformers, tokenizers and llguidance, which are not all"
            " installed: pip install 'penstock[llm]'"
        ) from error
    parts: Parts = heavy.make_parts(source, options, device, _Progress(source))
    try:
        return _assemble(source, options, device, name, parts)
    except BaseException:
        parts.close()
        raise


def _assemble(
    source: ModelSource, options: EngineOptions, device: str, name: str, parts: Parts
) -> Built:
    config, services = source.config, source.services
    tally = EngineTally(config.name, source.version, name, parts.cache_config)
    calls = services.calls if services is not None else None
    watcher = EngineWatcher(tally, calls)
    threads = partial(prepare_thread, options.threads, device)
    engine = parts.engine(name, watcher, threads)
    tally.state = lambda: state_of(engine.stats())
    answers = Answers(parts.tokenizer.token_text, options.price_per_hour / SECONDS_PER_HOUR)
    scribe = Scribe(answers, engine.end, watcher, f"{name} scribe")
    base = sampling_defaults(config.name, source.directory, options)
    room = parts.room
    preparer = Preparer(
        options,
        ModelText(parts.tokenizer, _template(source, options), room),
        room,
        parts.vocab_size,
        base=base,
        batched=config.max_batch_size > 0,
        recorded=calls is not None and calls.content,
        check_adapter=parts.check_adapter,
    )
    scribe.start()
    engine.start(scribe)
    if services is not None:
        services.engines.add(tally)
    left = partial(_leave, source, tally, parts)
    executable = GenerativeExecutable(
        engine, scribe, preparer, parts.grammars.compile, watcher.refused, left
    )
    return Built(executable, parts.memory_bytes)


def _leave(source: ModelSource, tally: EngineTally, parts: Parts) -> None:
    if source.services is not None:
        source.services.engines.remove(tally)
    parts.close()


def _template(source: ModelSource, options: EngineOptions) -> str:
    """The operator's chat template in place of the model's: a file of the version's folder."""
    name = options.chat_template
    if not name:
        return ""
    path = (source.directory / name).resolve()
    if source.root.resolve() not in path.parents or not path.is_file():
        raise InvalidArgument(
            f"model '{source.config.name}': chat_template is {name[:64]!r}, expected a file in the"
            " model's folder"
        )
    return path.read_text(encoding="utf-8")
