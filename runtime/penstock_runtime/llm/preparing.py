"""From a request as it came to what the engine generates: its prompt as tokens, a sequence for each
of its answers.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import numpy as np

from penstock_runtime.backends.base import RequestTask
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.adapter_gate import ADAPTER
from penstock_runtime.llm.asking import Ask, read_ask
from penstock_runtime.llm.engine import GRAMMAR
from penstock_runtime.llm.generation import Choice, Generation, Texts
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.signature import N_PROMPT, OF_PROMPT, PROMPT_IDS, PROMPT_TEXT
from penstock_runtime.request import InferRequest


class TextSide(Protocol):
    """All that knows the words of one model."""

    def encode(self, text: str, limit: int = 0) -> list[int]:
        """The tokens of a prompt, refused where they are surely more than `limit` (0: than fit)."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""

    def chat(self, chat: object) -> list[int]:
        """The tokens of a chat, as the model's template has it."""

    def texts(self, params: SamplingParams, prompt: Sequence[int]) -> Texts:
        """Where the text of an answer to this prompt comes to be."""


# A prompt of which the end counts may be so many times as long as what fits.
_CUT = 16
_NEUTRAL = SamplingParams()


def no_adapters(name: str) -> None:
    """Refuse any adapter: the model has none."""
    if name:
        raise InvalidArgument(
            f"adapter '{name[:64]}' is not among the model's, which has none", scheduled=True
        )


class Preparer:
    """Makes generations of the requests of one engine. `room` is how many tokens a text may have,
    `vocab_size` how many there are, `base` what holds where a request does not say.
    """

    def __init__(
        self,
        options: EngineOptions,
        text: TextSide,
        room: int,
        vocab_size: int,
        *,
        base: SamplingParams = _NEUTRAL,
        batched: bool = False,
        recorded: bool = False,
        check_adapter: Callable[[str], None] = no_adapters,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._options = options
        self._text = text
        self._room = room
        self._vocab_size = vocab_size
        self._batched = batched
        self._recorded = recorded
        self._check_adapter = check_adapter
        self._clock = clock
        self._numbers = count()
        self._base = base

    def prepare(self, task: RequestTask) -> Generation:
        """The generation of a request; InvalidArgument for one that makes no sense."""
        request, ask = task.request, self._ask(task)
        self._check_adapter(ask.params.adapter)
        prompts = [self._checked(tokens, ask.params) for tokens in self._prompts(ask)]
        generation = Generation(
            task, ask, request.received_ns or self._clock(), recorded=self._recorded
        )
        if ask.echo or PROMPT_TEXT in ask.wants:
            generation.prompt_texts = tuple(self._text.decode(tokens) for tokens in prompts)
        if self._recorded:
            generation.prompts = ask.texts or tuple(map(self._text.decode, prompts))
        for prompt in prompts:
            self._add_choices(generation, prompt)
        return generation

    def of_prompt(self, task: RequestTask) -> dict[str, Any] | None:
        """The answer to a request that asks for nothing but its prompt, as tokens or as text; None
        for any other.
        """
        wanted = {output.name for output in task.request.outputs}
        if not wanted or not wanted <= OF_PROMPT:
            return None
        ask = self._ask(task)
        prompts = self._prompts(ask, whole=True)
        for tokens in prompts:
            self._check_known(tokens)
        found: dict[str, Any] = {}
        if PROMPT_IDS in wanted:
            found[PROMPT_IDS] = np.array([i for ids in prompts for i in ids], np.int64)
        if PROMPT_TEXT in wanted:
            texts = [self._text.decode(ids).encode() for ids in prompts]
            found[PROMPT_TEXT] = np.array(texts, dtype=object)
        if N_PROMPT in wanted:
            found[N_PROMPT] = np.array([len(ids) for ids in prompts], np.uint32)
        return {name: array[None] for name, array in found.items()} if ask.batched else found

    def _ask(self, task: RequestTask) -> Ask:
        return read_ask(
            task.request,
            task.arrays,
            self._base,
            vocab_size=self._vocab_size,
            echo=self._options.echo,
            batched=self._batched,
        )

    def _prompts(self, ask: Ask, *, whole: bool = False) -> list[list[int]]:
        """The tokens of the prompts, refused where they are surely too many; `whole`: also where
        there is no room for them.
        """
        if ask.ids is not None:
            return [list(ask.ids)]
        if ask.chat is not None:
            return [self._text.chat(ask.chat)]
        cut = whole or ask.params.truncate_prompt_tokens is not None
        limit = _CUT * self._room if cut else 0
        return [self._text.encode(text, limit) for text in ask.texts]

    def _checked(self, tokens: list[int], params: SamplingParams) -> list[int]:
        kept = params.truncate_prompt_tokens
        if kept is not None:
            # As many as leave room for the answer, where no number is given.
            tokens = tokens[
                -(kept if kept > 0 else max(self._room - (params.max_tokens or 1), 1)) :
            ]
        if not tokens:
            raise InvalidArgument("the prompt has 0 tokens, expected at least 1", scheduled=True)
        self._check_known(tokens)
        if len(tokens) >= self._room:
            raise InvalidArgument(
                f"the prompt has {len(tokens)} tokens, expected at most {self._room - 1}: a text"
                f" may have {self._room} together with its answer",
                reason="PROMPT_TOO_LONG",
                scheduled=True,
            )
        return tokens

    def _check_known(self, tokens: list[int]) -> None:
        wrong = next((token for token in tokens if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            raise InvalidArgument(
                f"the prompt has token {wrong}, expected 0 to {self._vocab_size - 1}",
                scheduled=True,
            )

    def _add_choices(self, generation: Generation, prompt: list[int]) -> None:
        params = generation.ask.params
        first = len(generation.choices)
        for place in range(params.n):
            sequence = self._sequence(generation, prompt, place)
            choice = Choice(generation, first + place, sequence, self._text.texts(params, prompt))
            sequence.owner = choice
            if params.adapter:
                choice.holds.add(ADAPTER)
            if params.structured is not None:
                choice.holds.add(GRAMMAR)
            generation.choices.append(choice)

    def _sequence(self, generation: Generation, prompt: list[int], place: int) -> Tokens:
        request, params = generation.task.request, generation.ask.params
        if place and params.prompt_logprobs is not None:
            # The prompt is the same: the others find it in the cache instead.
            params = replace(params, prompt_logprobs=None)
        seed = params.seed + place if params.seed is not None else secrets.randbits(63)
        return Tokens(
            next(self._numbers),
            prompt,
            params,
            max_tokens=self._max_tokens(len(prompt), params),
            seed=seed,
            arrived_ns=generation.arrived_ns,
            deadline_ns=self._deadline(generation),
            priority=request.priority,
            tenant=self._header(request, self._options.tenant_header),
            salt=self._header(request, self._options.salt_header).encode(),
            adapter=params.adapter,
            owner=None,
        )

    def _deadline(self, generation: Generation) -> int | None:
        """The caller's, else what is usual for the model."""
        deadline, usual_s = generation.task.request.deadline_ns, self._options.default_timeout_s
        if deadline is None and usual_s:
            return generation.arrived_ns + int(usual_s * 1e9)
        return deadline

    def _max_tokens(self, n_prompt: int, params: SamplingParams) -> int:
        most = self._options.max_output_tokens
        if params.max_tokens is None:
            left = self._room - n_prompt
            return min(left, most) if most else left
        if most and params.max_tokens > most:
            raise InvalidArgument(
                f"max_tokens is {params.max_tokens}, expected at most {most} for this model",
                scheduled=True,
            )
        return params.max_tokens

    def _header(self, request: InferRequest, name: str) -> str:
        """What a trusted front end says of the caller; "" where none is named."""
        return request.headers.get(name.lower(), "") if name else ""
