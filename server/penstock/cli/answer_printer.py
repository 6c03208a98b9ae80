"""Prints an answer while it comes, and its figures when it is over.

Of several choices the first that has not ended is shown live, the others when it is their turn.
"""

import json
import math
import sys
from collections.abc import Iterator
from typing import TextIO

from penstock.cli.answer import Answer, Choice, Delta
from penstock.cli.terminal import Paint, heading, is_terminal, plain, table
from penstock.client.result import InferResult


class AnswerPrinter:
    """Writes the text of the choices to a stream as it is fed with deltas."""

    def __init__(self, stream: TextIO, choices: int = 1) -> None:
        self._stream = stream
        self._paint = Paint(stream)
        # What others wrote must not steer a terminal; a file gets it as it is.
        self._clean = plain if is_terminal(stream) else str
        self._choices = choices
        self._live = 0
        self._begun = False
        self._waiting: dict[int, str] = {}
        self._ended: set[int] = set()
        self._at_line_start = True

    def feed(self, delta: Delta) -> None:
        """Show a delta, now or when it is its turn."""
        self._waiting[delta.index] = self._waiting.get(delta.index, "") + delta.text
        if delta.finish_reason:
            self._ended.add(delta.index)
        self._show()
        while self._live in self._ended and self._live + 1 < self._choices:
            self._next()
        self._stream.flush()

    def close(self) -> None:
        """Show what is left of an answer that broke off, and leave the line."""
        while self._live + 1 < self._choices and len(self._waiting) > 0:
            self._next()
        self._end_line()
        self._stream.flush()

    def _next(self) -> None:
        self._end_line()
        self._live += 1
        self._begun = False
        self._show()

    def _show(self) -> None:
        text = self._waiting.pop(self._live, None)
        if text is None:
            return
        if not self._begun and self._choices > 1:
            title = heading(f"{self._live + 1} of {self._choices}")
            self._stream.write(self._paint(title, "dim") + "\n")
        self._begun = True
        self._stream.write(self._clean(text))
        if text:
            self._at_line_start = text.endswith("\n")

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._stream.write("\n")
            self._at_line_start = True


def print_deltas(answer: Answer, results: Iterator[InferResult], printer: AnswerPrinter) -> None:
    """Read and print until the answer is over; whatever ends it, the line is left."""
    try:
        for result in results:
            for delta in answer.read(result):
                printer.feed(delta)
    finally:
        printer.close()


def print_json(answer: Answer, results: Iterator[InferResult]) -> None:
    """A line for each delta, and one for the figures."""
    for result in results:
        for delta in answer.read(result):
            print(json.dumps(delta.document(), ensure_ascii=False), flush=True)
    print(json.dumps(answer.document()), flush=True)


def print_figures(answer: Answer) -> None:
    """How many tokens and how fast, as seen from here and as the server says, on stderr."""
    paint = Paint(sys.stderr)
    for line in figures(answer):
        print(paint(line, "dim"), file=sys.stderr)


def figures(answer: Answer) -> list[str]:
    """The figures of an answer, a line of ours and one of the server's."""
    told = answer.told
    unit = "token" if answer.counted else "response"
    parts = [f"{_count(answer.tokens, unit)} in {answer.total_s:.2f} s"]
    rate = f"{answer.rate:,.1f} {unit}s/s" if answer.rate else ""
    if answer.ttft_ms is not None and not answer.whole:
        parts.append(f"first after {_ms(answer.ttft_ms)}, then {rate}")
    else:
        parts.append(rate)
    if "num_input_tokens" in told:
        cached = f" ({told['cached_tokens']:,} cached)" if told.get("cached_tokens") else ""
        parts.append(f"prompt of {told['num_input_tokens']:,}{cached}")
    parts.append(_reasons(list(answer.choices.values())))
    lines = [" · ".join(filter(None, parts))]
    server = [
        f"{label} {_ms(told[name] / 1e6)}{after}"
        for name, label, after in (
            ("ttft_ns", "first after", ""),
            ("queue_ns", "queue", ""),
            ("itl_mean_ns", "then", " a token"),
            ("compute_ns", "compute", ""),
        )
        if name in told
    ]
    return [*lines, "server: " + " · ".join(server)] if server else lines


def _reasons(choices: list[Choice]) -> str:
    said = []
    for choice in choices:
        stopped = f" at {plain(repr(choice.stop_reason))}" if choice.stop_reason else ""
        said.append((choice.finish_reason or "cancelled") + stopped)
    # In the order of their first, each once.
    return ", ".join(dict.fromkeys(said))


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def print_logprobs(choice: Choice) -> None:
    """A table of the tokens, how likely each was, and what else might have come."""
    rows = [_row(each) for each in choice.logprobs if each]
    if rows:
        print(table(("TOKEN", "PROBABILITY", "RANK", "OTHERS"), rows, numbers=(1, 2)))


def _row(tokens: dict[str, dict[str, object]]) -> tuple[str, ...]:
    chosen, *others = tokens.values()
    shown = [f"{_token(each)} {_share(each)}" for each in others]
    return _token(chosen), _share(chosen), str(chosen.get("rank", "-")), "  ".join(shown)


def _token(said: dict[str, object]) -> str:
    return plain(repr(str(said.get("decoded_token", ""))))


def _share(said: dict[str, object]) -> str:
    value = said.get("logprob")
    return f"{math.exp(value):.1%}" if isinstance(value, int | float) else "-"
