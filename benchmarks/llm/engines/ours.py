"""Our engine by itself, as `turns` drives it: its own thread, but no server and no text."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.llm.engines.turns import job, reply_channel, serve

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.host import prepare_openmp
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.generation import Choice, Generation, News
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence as Tokens
from penstock_runtime.llm.step import StepPlan
from penstock_runtime.llm.threads import prepare_thread


class _Nobody:
    """Watches the steps, and only counts them."""

    def __init__(self) -> None:
        self.steps = self.accepted = 0

    def stepped(self, plan: StepPlan, spent_ns: int, accepted: int) -> None:
        """A step was computed."""
        del plan, spent_ns
        self.steps += 1
        self.accepted += accepted


class _Listener:
    """Waits until all answers have ended."""

    def __init__(self) -> None:
        self.left = 0
        self.done = threading.Event()
        self.error: PenstockError | None = None

    def put(self, news: Sequence[News]) -> None:
        """The news of one step."""
        self.left -= sum(bool(item.reason) for item in news)
        if self.left <= 0:
            self.done.set()

    def fail(self, generation: Generation, error: PenstockError) -> None:
        """A request failed, and with it the comparison."""
        del generation
        self.error = error
        self.done.set()


class OwnEngine:
    """The engine that serves, without what serves."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        prepare_openmp()
        from penstock_runtime.llm.parts import make_parts

        source = ModelSource(ModelConfig(name="bench"), 1, model, model)
        parts = make_parts(source, options, "cpu", lambda _done, _total: None)
        self.watcher = _Nobody()
        self._listener = _Listener()
        prepare = partial(prepare_thread, options.threads, "cpu")
        self.engine: Any = parts.engine("bench", self.watcher, prepare)
        self.engine.start(self._listener)

    def generate(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        """The answers to these prompts, asked for at once: greedy, and so many tokens each."""
        listener = self._listener
        listener.left = len(prompts)
        listener.done.clear()
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        sequences = [
            Tokens(number, prompt, params, max_tokens=count)
            for number, prompt in enumerate(prompts)
        ]
        for sequence in sequences:
            self.engine.submit(_generation(sequence))
        listener.done.wait()
        if listener.error is not None:
            raise listener.error
        return [sequence.tokens[sequence.n_prompt :] for sequence in sequences]


def _generation(sequence: Tokens) -> Generation:
    """What the engine takes; nobody reads the task, what was asked, or the text."""
    nothing: Any = None
    generation = Generation(nothing, nothing, 0)
    choice = Choice(generation, 0, sequence, nothing)
    sequence.owner = choice
    generation.choices.append(choice)
    return generation


def options_of(task: dict[str, Any]) -> EngineOptions:
    """The engine's options for a job."""
    return EngineOptions(
        dtype=task["dtype"],
        threads=task["threads"],
        max_batched_tokens=task["max_batched_tokens"],
        prefix_caching=task.get("prefix_caching", False),
        speculative_method=task.get("speculative_method", "none"),
    )


def main() -> None:
    """Serve turns."""
    replies, task = reply_channel(), job()
    serve(replies, OwnEngine(Path(task["model"]), options_of(task)).generate)


if __name__ == "__main__":
    main()
