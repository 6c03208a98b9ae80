"""Reads a Dockerfile well enough to lint it and to replay its steps."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    keyword: str
    value: str

    def words(self) -> list[str]:
        """The words of the exec form (a JSON list) or of the shell form."""
        if self.value.startswith("["):
            words: list[str] = json.loads(self.value)
            return words
        return shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """The instructions between one FROM and the next."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, keyword: str) -> list[Instruction]:
        """Every instruction of this kind, in order."""
        return [i for i in self.instructions if i.keyword == keyword]

    def last(self, keyword: str) -> Instruction:
        """The one that counts: a later one replaces an earlier."""
        return self.all(keyword)[-1]

    def pairs(self, keyword: str) -> dict[str, str]:
        """What ARG, ENV or LABEL instructions set, as written."""
        found: dict[str, str] = {}
        for instruction in self.all(keyword):
            for word in instruction.words():
                name, _, value = word.partition("=")
                found[name] = value
        return found


@dataclass(frozen=True)
class Dockerfile:
    """A whole file: the ARGs before the first FROM, and the stages."""

    path: Path
    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]


def read(path: Path) -> Dockerfile:
    """The file, its bases with the defaults of the ARGs filled in."""
    head: list[Instruction] = []
    stages: list[tuple[str, list[Instruction]]] = []
    for instruction in _instructions(path.read_text()):
        if instruction.keyword == "FROM":
            stages.append((instruction.value, []))
        else:
            (stages[-1][1] if stages else head).append(instruction)
    arguments = Stage("", "", tuple(head)).pairs("ARG")
    return Dockerfile(path, arguments, tuple(_stage(f, i, arguments) for f, i in stages))


def expand(text: str, values: Mapping[str, str]) -> str:
    """The text with its plain variables filled in."""
    return _VARIABLE.sub(lambda m: values.get(m[1] or m[2], m[0]), text)


def _stage(source: str, instructions: list[Instruction], arguments: Mapping[str, str]) -> Stage:
    base, _, name = expand(source, arguments).partition(" AS ")
    return Stage(base, name, tuple(instructions))


def _instructions(text: str) -> Iterator[Instruction]:
    joined = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        joined += line.strip().removesuffix("\\").rstrip() + " "
        if not line.rstrip().endswith("\\"):
            keyword, _, value = joined.strip().partition(" ")
            yield Instruction(keyword, value.strip())
            joined = ""
