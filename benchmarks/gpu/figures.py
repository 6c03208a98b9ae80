"""How a step keeps its figures: one JSON file, written anew after each, so that a step which is cut
short leaves what it had; and a figure that cannot be had says why in its place.
"""

import argparse
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Figures:
    """Figures by name, on their way to `FOLDER/NAME.json`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self._found: dict[str, Any] = {}
        self.failed = 0

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure, print, keep; an error is kept in the figure's place, and the next is taken."""
        try:
            self._found[name] = measure()
        except Exception as error:
            traceback.print_exc()
            self.failed += 1
            self._found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(f"{name}: {self._found[name]}", flush=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")


def folder(words: Sequence[str] | None, description: str | None) -> Path:
    """The folder that the command names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = parser.parse_args(words).out
    return out
