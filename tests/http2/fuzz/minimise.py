"""Chooses, out of many inputs, few that together take every step of the core that all take:

    python -m tests.http2.fuzz.minimise DIRECTORY_OF_INPUTS...

They are written to `corpus` beside this file, in place of what was there and is not needed.
"""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.http2.fuzz.driver import play_all_ways

CORE = "/penstock/transport/http2/"
CORPUS = Path(__file__).parent / "corpus"
MOST_FILES = 290
MOST_BYTES = 900_000
Step = tuple[CodeType, int, int]


class Tracer:
    """Collects the steps from line to line within functions of the core."""

    def __init__(self) -> None:
        self.steps: set[Step] = set()

    def of(self, raw: bytes) -> frozenset[Step]:
        """The steps that this input takes."""
        self.steps = set()
        sys.settrace(self._called)
        try:
            play_all_ways(raw)
        finally:
            sys.settrace(None)
        return frozenset(self.steps)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        if CORE not in frame.f_code.co_filename:
            return None
        last = [frame.f_lineno]
        steps, code = self.steps, frame.f_code

        def step(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                steps.add((code, last[0], frame.f_lineno))
                last[0] = frame.f_lineno
            return step

        return step


def chosen(inputs: Iterable[bytes]) -> list[bytes]:
    """Few of these, so that every step is taken twice: first those that add most for their size."""
    tracer = Tracer()
    covers = {raw: tracer.of(raw) for raw in inputs}
    found: list[bytes] = []
    for _ in range(2):
        _cover({raw: steps for raw, steps in covers.items() if raw not in found}, found)
    print(f"{len(found)} inputs, {sum(map(len, found))} bytes")
    return found


def _cover(covers: dict[bytes, frozenset[Step]], found: list[bytes]) -> None:
    left: set[Step] = set().union(*covers.values())
    while left and len(found) < MOST_FILES and sum(map(len, found)) < MOST_BYTES:
        best = max(covers, key=lambda raw: (len(covers[raw] & left) / (50 + len(raw)), raw))
        found.append(best)
        left -= covers.pop(best)
        covers = {raw: steps & left for raw, steps in covers.items() if steps & left}


def main() -> None:
    """Replace the corpus."""
    folders = [CORPUS, *map(Path, sys.argv[1:])]
    inputs = {path.read_bytes() for folder in folders for path in folder.iterdir()}
    kept = chosen(sorted(raw for raw in inputs if raw))
    for path in CORPUS.iterdir():
        path.unlink()
    for raw in kept:
        (CORPUS / hashlib.sha1(raw).hexdigest()[:16]).write_bytes(raw)


if __name__ == "__main__":
    main()
