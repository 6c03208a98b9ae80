"""How an engine under comparison is driven: it loads, says that it is ready, and answers prompts
each time it is given some. In a process of its own, with nothing but the standard library, since it
runs in other environments than ours.

A turn is a line of JSON each way: prompts as tokens, and the tokens of the answers with the seconds
of CPU and by the clock that they took.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], Prompts]


def job() -> dict[str, Any]:
    """How the engine is to be set up: the file that the command line names."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return found


def reply_channel() -> TextIO:
    """Where replies go; whatever else is printed goes to the log, which standard error is."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def serve(replies: TextIO, generate: Generate) -> None:
    """Take turns until the input ends."""
    _say(replies, {"ready": True})
    for line in sys.stdin:
        turn = json.loads(line)
        cpu_s, began = time.process_time(), time.perf_counter()
        answers = generate(turn["prompts"], turn["max_tokens"])
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began
        _say(replies, {"cpu_s": cpu_s, "wall_s": wall_s, "answers": answers})


def _say(replies: TextIO, what: dict[str, Any]) -> None:
    print(json.dumps(what), file=replies, flush=True)
