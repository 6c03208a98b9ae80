"""Which models are made of which: the order in which ensembles and their steps' models come and go.

Looks at configurations only. What a model is made of comes before it, and goes after it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_ensemble import circle, part_names
from penstock_runtime.config_reader import parse_json
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.index import ModelFolder
from penstock_runtime.repository.loader import Loader, ModelT
from penstock_runtime.repository.roots import RepositoryRoots

MadeOf = Mapping[str, Collection[str]]
"""By model, the models that it is made of; none for one that is no ensemble."""


class Dependencies(Generic[ModelT]):
    """What the models on disk are made of, as their configurations say it now."""

    def __init__(self, loader: Loader[ModelT], roots: RepositoryRoots) -> None:
        self._loader = loader
        self._roots = roots

    def of_folder(self, folder: ModelFolder) -> tuple[str, ...]:
        """The models that this one is made of; none where that cannot be told."""
        if folder.problem or folder.config_path is None:
            return ()
        try:
            return part_names(self._loader.read(folder))
        except Exception:
            # Whoever loads it says what is wrong.
            return ()

    def of(self, name: str) -> tuple[str, ...]:
        """The same of a model by its name."""
        folder = self._roots.find(name)
        return () if folder is None else self.of_folder(folder)

    def below(self, name: str, config_json: str | None = None) -> list[str]:
        """All that a model is made of and that is there, directly or not, in the order in which to
        load it; by its own configuration unless the caller brought one.
        """
        if config_json is None:
            first = self.of(name)
        else:
            try:
                first = part_names(replace(parse_json(config_json), name=name))
            except InvalidArgument:
                first = ()
        made_of = with_parts(first, self.of)
        found = [part for wave in in_waves(made_of) for part in wave if part != name]
        return [part for part in found if self._roots.find(part) is not None]

    def at_start(self, names: Collection[str]) -> list[list[str]]:
        """These models and what they are made of, as far as it is there, in waves."""
        made_of = with_parts(names, self.of)
        there = self._roots.names() | set(names) if len(made_of) > len(set(names)) else set(names)
        return in_waves({name: parts for name, parts in made_of.items() if name in there})

    def check(self, config: ModelConfig) -> None:
        """InvalidArgument for an ensemble that contains itself, as the files say it."""

        def parts(name: str) -> Sequence[str]:
            return part_names(config) if name == config.name else self.of(name)

        found = circle(config.name, parts)
        if found:
            raise InvalidArgument(f"ensemble '{config.name}' contains itself: {' -> '.join(found)}")

    def __repr__(self) -> str:
        return f"<Dependencies in {self._roots!r}>"


def with_parts(
    names: Iterable[str], parts: Callable[[str], Collection[str]]
) -> dict[str, Collection[str]]:
    """These models and all that they are made of, each with what it is made of itself."""
    found: dict[str, Collection[str]] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = parts(name)
            left.extend(found[name])
    return found


def in_waves(made_of: MadeOf) -> list[list[str]]:
    """The models in groups: what one is made of is in a group before it, as far as it is among
    these. Models that are made of each other come together, in the last group.
    """
    left = {name: set(parts) & made_of.keys() for name, parts in made_of.items()}
    waves: list[list[str]] = []
    while left:
        wave = sorted(name for name, parts in left.items() if not parts & left.keys())
        if not wave:
            return [*waves, sorted(left)]
        waves.append(wave)
        for name in wave:
            del left[name]
    return waves


def affected(changed: Collection[str], made_of: MadeOf) -> set[str]:
    """Of these ensembles those that one of the changed models is a part of, directly or not."""
    found: set[str] = set()
    before = -1
    while len(found) != before:
        before = len(found)
        known = found.union(changed)
        found |= {name for name, parts in made_of.items() if known.intersection(parts)}
    return found
