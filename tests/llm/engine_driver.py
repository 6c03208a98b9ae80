"""An engine and its scribe without threads, on a clock that is set by hand, step by step.

What callers get is what they would get of a server: arrays by name, or an error, once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from penstock_runtime.backends.base import SLOW_READER_S, Arrays, RequestTask
from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.adapter_gate import AdapterGate
from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.answers import Answers
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.detokenizer import TextStream
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.engine import GRAMMAR, Engine
from penstock_runtime.llm.engine_seams import Proposer, Runner
from penstock_runtime.llm.generation import Generation, Texts
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.policy import make_policy
from penstock_runtime.llm.preparing import Preparer, no_adapters
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.scribe import Scribe
from penstock_runtime.llm.sequence import Grammar
from penstock_runtime.llm.speculative.verify import Proposals
from penstock_runtime.llm.stepping import Steps
from penstock_runtime.llm.watching import EngineWatcher, state_of
from penstock_runtime.observability.engine_metrics import EngineTally
from penstock_runtime.request import EMPTY, InferRequest, Parameters, RequestedOutput

WANTED = ("text_output", "output_ids", "finish_reason", "index")
MS = 1_000_000


class Task(RequestTask):
    """A request whose answers are kept; every end counts, and nobody may end it twice."""

    def __init__(self, request: InferRequest, arrays: Arrays) -> None:
        self.request = request
        self.arrays = arrays
        self.answers: list[Arrays] = []
        self.error: PenstockError | None = None
        self.ends = 0
        self.gone = False
        self.room = 1 << 30
        self._watchers: list[Callable[[], None]] = []

    @property
    def abandoned(self) -> bool:
        return self.gone

    @property
    def has_room(self) -> bool:
        return self.room > 0

    def send(
        self,
        outputs: Arrays,
        parameters: Parameters = EMPTY,
        *,
        last: bool = True,
        patience_s: float = SLOW_READER_S,
    ) -> None:
        assert self.has_room, "who tells answers would wait for a reader"
        if self.gone:
            return
        assert not self.ends, "an answer after the last"
        self.answers.append(outputs)
        self.room -= 1
        self.ends += last

    def finish(self) -> None:
        raise AssertionError("a generation ends with a response")

    def fail(self, error: PenstockError) -> None:
        if self.gone:
            return
        assert not self.ends, "an error after the last answer"
        self.error = error
        self.ends += 1

    def on_abandon(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._watchers.append(callback)
        return lambda: None

    def abandon(self) -> None:
        """The caller gives up."""
        if not self.ends:
            self.gone = True
            for callback in self._watchers:
                callback()

    @property
    def ids(self) -> list[int]:
        """All tokens of its answers."""
        return [int(token) for answer in self.answers for token in answer["output_ids"]]

    @property
    def text(self) -> str:
        """All text of its one choice."""
        return "".join(answer["text_output"][0].decode() for answer in self.answers)


class Words:
    """Every token is a word, its number and a space."""

    def increments(self, skip_special: bool = True, prompt: Sequence[int] = ()) -> Any:
        return SimpleNamespace(push=lambda token: f"{token} ", flush=lambda: "")

    def encode(self, text: str, limit: int = 0) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{token} " for token in ids)

    def chat(self, chat: object) -> list[int]:
        raise AssertionError("nobody chats here")

    def texts(self, params: SamplingParams, prompt: Sequence[int]) -> Texts:
        return TextStream(self, params, prompt)


@dataclass
class Asked:
    """One request: what its caller has, and what the engine knows of it."""

    task: Task
    generation: Generation

    @property
    def ids(self) -> list[int]:
        return self.task.ids


@dataclass
class Driver:
    """The engine of one model, step by step."""

    engine: Engine
    scribe: Scribe
    batcher: ContinuousBatcher
    sampler: Sampler
    preparer: Preparer
    tally: EngineTally
    clock: "Clock"
    proposer: Proposer | None = None
    asked: list[Asked] = field(default_factory=list)

    def ask(
        self,
        prompt: Iterable[int] | Sequence[str],
        *,
        outputs: Sequence[str] = WANTED,
        stream: bool = True,
        deadline_ns: int | None = None,
        tenant: str = "",
        grammar: Grammar | None = None,
        **params: Any,
    ) -> Asked:
        """Queue a request; greedy, and to its full length, unless its parameters say otherwise."""
        document = {"temperature": 0.0, "ignore_eos": True, **params}
        arrays: dict[str, Any] = {"sampling_parameters": _bytes([json.dumps(document)])}
        items = list(prompt)
        if items and isinstance(items[0], str):
            arrays["text_input"] = _bytes(items)
        else:
            arrays["input_ids"] = np.array(items, np.int64)
        request = InferRequest(
            "tiny",
            (),
            outputs=tuple(map(RequestedOutput, outputs)),
            parameters={"stream": stream},
            headers={"tenant": tenant},
            deadline_ns=deadline_ns,
            received_ns=self.clock(),
        )
        task = Task(request, arrays)
        generation = self.preparer.prepare(task)
        if grammar is not None:
            for choice in generation.choices:
                choice.holds.add(GRAMMAR)
        self.engine.submit(generation)
        task.on_abandon(lambda: self.scribe.abandon(generation))
        for choice in generation.choices if grammar is not None else ():
            self.engine.release(choice, GRAMMAR, grammar)
        asked = Asked(task, generation)
        self.asked.append(asked)
        return asked

    def step(self) -> bool:
        """One step, and what is told of it; what always holds is checked."""
        self.clock.now += MS
        more = self.engine.step()
        self.scribe.drain()
        self.batcher.check()
        return more

    def run(self, steps: int = 2000) -> None:
        """Step until there is nothing to do."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"{self.engine!r} does not come to an end")

    def assert_empty(self) -> None:
        """Nothing is left of any request."""
        self.engine.step()
        stats = self.engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.free_blocks == stats.n_blocks
        assert not self.sampler._states
        assert not getattr(self.proposer, "_indices", None)
        assert not getattr(self.proposer, "_shadows", None)
        for asked in self.asked:
            assert asked.task.ends == (0 if asked.task.gone else 1)


@dataclass
class Clock:
    """Stands still unless it is moved."""

    now: int = 1_000 * MS

    def __call__(self) -> int:
        return self.now


def drive(
    runner: Runner,
    vocab_size: int,
    *,
    blocks: int = 64,
    size: int = 4,
    seqs: int = 16,
    tokens: int = 64,
    policy: str = "fcfs",
    proposer: Proposer | None = None,
    watermark: float = 0.0,
    eos: Iterable[int] = (),
    options: EngineOptions | None = None,
    caching: bool = True,
    gate: AdapterGate | None = None,
    proposals: Proposals | None = None,
    steps: Callable[[Any, Sampler], Steps] = Steps,
    device: DeviceSampler | None = None,
) -> Driver:
    """An engine of this size over this runner."""
    clock = Clock()
    limits = Limits(
        max_num_seqs=seqs,
        max_batched_tokens=tokens,
        max_model_len=blocks * size,
        watermark=watermark,
    )
    pool = BlockPool(blocks, size, caching)
    batcher = ContinuousBatcher(pool, limits, make_policy(policy))
    sampler = Sampler(vocab_size, eos, proposals=proposals, device=device)
    tally = EngineTally("tiny", 1, "tiny_0", {})
    watcher = EngineWatcher(tally, clock=clock)
    engine = Engine(
        "tiny",
        steps(runner, sampler),
        batcher,
        watcher,
        list(eos),
        proposer,
        gate=gate,
        clock=clock,
    )
    scribe = Scribe(Answers(str), engine.end, watcher, clock=clock)
    engine._teller = scribe
    tally.state = lambda: state_of(engine.stats())
    known = options or EngineOptions(tenant_header="tenant")
    check = gate.check if gate is not None else no_adapters
    preparer = Preparer(known, Words(), blocks * size, vocab_size, check_adapter=check, clock=clock)
    return Driver(engine, scribe, batcher, sampler, preparer, tally, clock, proposer)


def _bytes(items: Sequence[Any]) -> Any:
    return np.array([str(item).encode() for item in items], dtype=object)
