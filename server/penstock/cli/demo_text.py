"""The part of the demo that a language model has: a text and an answer, as they come."""

import json
import sys
from typing import Any

from penstock.cli.answer import Answer
from penstock.cli.answer_printer import AnswerPrinter, figures, print_deltas
from penstock.cli.generative import MESSAGES, TEXT, Generative
from penstock.cli.terminal import Paint
from penstock.client.sync import Client

PROMPT = "def read_file("
QUESTION = "what does os.path.join do?"
FREELY: dict[str, Any] = {"max_tokens": 64, "temperature": 0.7, "seed": 1}
GREEDILY: dict[str, Any] = {"max_tokens": 64, "temperature": 0}


def show_text(client: Client, model: Generative) -> None:
    """What the model goes on with after a line of Python, and what it answers to a question."""
    paint = Paint(sys.stdout)
    print(paint(PROMPT, "bold"), end="", flush=True)
    _show(client, model, {TEXT: PROMPT}, FREELY)
    if MESSAGES in model.inputs:
        print(paint(f"\n{QUESTION}", "bold"))
        asked = json.dumps([{"role": "user", "content": QUESTION}])
        _show(client, model, {MESSAGES: asked}, GREEDILY)
    print(f"\npenstock chat {model.name}: ask it yourself")


def _show(
    client: Client, model: Generative, source: dict[str, str], sampling: dict[str, Any]
) -> None:
    answer = Answer()
    with model.ask(client, source, sampling) as results:
        print_deltas(answer, results, AnswerPrinter(sys.stdout))
    for line in figures(answer):
        print(Paint(sys.stdout)(line, "dim"))
