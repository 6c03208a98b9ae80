"""One client of the load: its channels, its calls, and the judgement of their answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.soak.tally import Tally
from numpy.typing import NDArray

from penstock.client import calls
from penstock.client.base import AsyncChannel, Metadata
from penstock.client.calls import Call
from penstock.client.channel import ChannelSettings
from penstock.client.errors import InferenceError
from penstock.client.open import open_async_channel
from penstock.client.result import InferResult
from penstock_runtime.errors import Status

STREAM = calls.INFERENCE + "ModelStreamInfer"
LONG_S = 30.0
"""A call that is not answered for so long has failed."""

Array = NDArray[Any]


@dataclass(slots=True)
class Caller:
    """What jobs share: the server's address, the carrier (http2, grpcio), and what was counted.

    `repository` is where models may be written anew, for the one client that does so.
    """

    url: str
    carrier: str
    seed: int
    repository: Path | None = None
    tally: Tally = field(default_factory=Tally)
    stopping: bool = False
    channels: dict[str, AsyncChannel] = field(default_factory=dict)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def kind(self, name: str) -> str:
        """The name under which calls are counted."""
        return f"{name} ({self.carrier})"

    def channel(self, name: str = "", compression: str = "") -> AsyncChannel:
        """The channel of that name, which stays open until the end."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = self.fresh_channel(compression)
        return found

    def fresh_channel(self, compression: str = "") -> AsyncChannel:
        """A channel that whoever asks for it closes."""
        settings = ChannelSettings.of(self.url, None, self.carrier, compression, None)
        return open_async_channel(settings)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self.channels.values():
            await channel.close()

    async def ask(
        self,
        kind: str,
        channel: AsyncChannel,
        question: "Question",
        *,
        timeout_s: float = LONG_S,
        metadata: Metadata = (),
    ) -> bool:
        """Call, and judge the answer; whether it was right."""
        call = question.call
        try:
            answer = await channel.unary(call.method, call.request, timeout_s, metadata)
            problem = question.problem(call.read(answer))
        except InferenceError as error:
            problem = str(error)
        self.tally.judge(self.kind(kind), problem)
        self.tally.executed += question.model == "twice" and not problem
        return not problem

    async def refused(
        self, kind: str, channel: AsyncChannel, call: Call[Any], *expected: Status, **more: Any
    ) -> None:
        """Call, and judge whether it fails as it has to."""
        names = " or ".join(status.value for status in expected)
        try:
            timeout_s, metadata = more.get("timeout_s", LONG_S), more.get("metadata", ())
            await channel.unary(call.method, call.request, timeout_s, metadata)
            problem = f"OK, expected {names}"
        except InferenceError as error:
            problem = "" if error.status in expected else f"{error}, expected {names}"
        self.tally.judge(self.kind(kind), problem)


@dataclass(frozen=True, slots=True)
class Question:
    """A call and the answer that it has to get."""

    model: str
    call: Call[InferResult]
    answer: Array
    id: str = ""

    def problem(self, result: InferResult) -> str:
        """What is wrong with this answer; "": nothing."""
        if result.id != self.id:
            return f"the answer bears the id {result.id!r}, expected {self.id!r}"
        if result.model_name != self.model:
            return f"the answer is of {result.model_name!r}, expected {self.model!r}"
        if not np.array_equal(result["OUTPUT0"], self.answer):
            return f"wrong numbers of shape {result['OUTPUT0'].shape}"
        return ""


def matrix(chance: random.Random, shape: Sequence[int]) -> Array:
    """Numbers of which no two calls have the same."""
    return np.random.default_rng(chance.getrandbits(32)).random(tuple(shape), np.float32)


def question(model: str, values: Array, id: str = "") -> Question:  # noqa: A002
    """A call of a model of the soak; twice doubles, the others give back what they get."""
    answer = values * 2 if model == "twice" else values
    return Question(model, calls.infer(model, {"INPUT0": values}, id=id), answer, id)


def small(chance: random.Random, model: str = "echo", id: str = "") -> Question:  # noqa: A002
    """A call of a few bytes."""
    if model == "twice":
        numbers = [chance.randrange(1 << 20) for _ in range(4)]
        return question(model, np.array([numbers], np.int32), id)
    return question(model, matrix(chance, (1, chance.choice((1, 16, 100)))), id)
