"""All model repositories of a server, seen as one.

Knows which root cannot be seen at the moment, so that nobody takes its models for deleted.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from penstock_runtime.errors import FailedPrecondition
from penstock_runtime.repository.index import (
    ModelFolder,
    is_bare,
    model_names,
    read_folder,
    scan,
    scan_model,
)

_log = logging.getLogger("penstock.repository")

SEPARATOR = "::"


@dataclass(frozen=True, slots=True)
class RootsView:
    """One look at everything: the models by name, and the roots that could not be seen."""

    folders: Mapping[str, ModelFolder]
    unseen: frozenset[Path]


class RepositoryRoots:
    """The model repositories below `roots`. A name that is in two of them has a problem or, with
    `namespaces`, is two models: `first::name` and `second::name`, after the repositories' folders.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        model_name: str = "",
        config_name: str = "",
        *,
        namespaces: bool = False,
    ) -> None:
        self._roots = tuple(roots)
        self._namespaces = _namespaces(self._roots) if namespaces else {}
        self._model_name = model_name
        self._config_name = config_name
        self._seen_as: dict[Path, tuple[int, int]] = {}
        self._unseen: frozenset[Path] = frozenset()
        self._warned: set[tuple[str, str]] = set()

    def check(self) -> None:
        """Raise FailedPrecondition, for the operator, when a root is not there or not one.

        How each root is seen here is what later looks are held against.
        """
        for root in self._roots:
            try:
                self._seen_as[root] = _identity(root)
                names = model_names(root, model_name=self._model_name)
                bare = not names and is_bare(root)
            except OSError as error:
                raise FailedPrecondition(
                    f"model repository '{root}' cannot be read: {error.strerror}"
                ) from error
            if bare:
                raise FailedPrecondition(
                    f"'{root}' holds the files of one model and no folders of models: say how it "
                    "is called (--model-name)"
                )

    def look(self) -> RootsView:
        """Everything there is. A root that is gone, or empty under a new identity, is unseen."""
        found: dict[str, list[ModelFolder]] = {}
        unseen = set()
        for root in self._roots:
            folders = self._scan(root)
            if folders is None:
                unseen.add(root)
                continue
            for name, folder in folders.items():
                found.setdefault(name, []).append(folder)
        self._tell_unseen(frozenset(unseen))
        distinct = [one for name, same in found.items() for one in self._distinct(name, same)]
        return RootsView({folder.name: folder for folder in distinct}, self._unseen)

    def find(self, name: str) -> ModelFolder | None:
        """One model; `name` must be one path component."""
        # Without namespaces the separator is a part of the name like any other.
        plain = name.rpartition(SEPARATOR)[2] if self._namespaces else name
        same = self._distinct(plain, self._in_all(plain))
        return next((folder for folder in same if folder.name == name), None)

    def _in_all(self, name: str) -> list[ModelFolder]:
        found = []
        for root in self._roots:
            try:
                folder = scan_model(
                    root, name, model_name=self._model_name, config_name=self._config_name
                )
            except OSError as error:
                _log.warning("model repository %s cannot be read: %s", root, error.strerror)
                continue
            if folder is not None:
                found.append(folder)
        return found

    def _distinct(self, name: str, same: Sequence[ModelFolder]) -> list[ModelFolder]:
        """The models that folders of one name are."""
        if len(same) < 2 or not self._namespaces:
            return [self._one(name, same)] if same else []
        made = []
        for folder in same:
            served = f"{self._namespaces[folder.repository]}{SEPARATOR}{name}"
            made.append(self._one(served, [replace(folder, name=served, plain_name=name)]))
        return made

    def again(self, folder: ModelFolder) -> ModelFolder | None:
        """The very folder that was seen before (not what its name leads to by now), as it is
        now.
        """
        try:
            return read_folder(folder.repository, folder.root, folder.own_name, self._config_name)
        except FileNotFoundError:
            return None

    def names(self) -> set[str]:
        """The names of all models there are."""
        places: dict[str, list[Path]] = {}
        for root in self._roots:
            try:
                for name in model_names(root, model_name=self._model_name):
                    places.setdefault(name, []).append(root)
            except OSError as error:
                _log.warning("model repository %s cannot be read: %s", root, error.strerror)
        return {served for name, roots in places.items() for served in self._served(name, roots)}

    def _served(self, name: str, roots: Sequence[Path]) -> list[str]:
        if len(roots) < 2 or not self._namespaces:
            return [name]
        return [f"{self._namespaces[root]}{SEPARATOR}{name}" for root in roots]

    def _scan(self, root: Path) -> dict[str, ModelFolder] | None:
        try:
            seen_as = _identity(root)
            folders = scan(root, model_name=self._model_name, config_name=self._config_name)
        except OSError:
            return None
        # What is left of a file system that was unmounted is an empty folder of another identity.
        if not folders and self._seen_as.get(root, seen_as) != seen_as:
            return None
        self._seen_as[root] = seen_as
        return folders

    def _tell_unseen(self, unseen: frozenset[Path]) -> None:
        for root in sorted(unseen - self._unseen):
            _log.error("model repository %s is gone; its models are kept as they are", root)
        for root in sorted(self._unseen - unseen):
            _log.info("model repository %s is back", root)
        self._unseen = unseen

    def _one(self, name: str, found: Sequence[ModelFolder]) -> ModelFolder:
        first = found[0]
        if len(found) > 1:
            return replace(
                first,
                signature=(),
                problem=f"model '{name}' is in {len(found)} model repositories, expected one",
            )
        for warning in first.warnings:
            if (name, warning) not in self._warned:
                self._warned.add((name, warning))
                _log.warning("model '%s': %s", name, warning)
        return first

    def __repr__(self) -> str:
        return f"<RepositoryRoots {len(self._roots)} repositories, {len(self._unseen)} unseen>"


def _namespaces(roots: Sequence[Path]) -> dict[Path, str]:
    """The namespace of each repository: its folder's name, with a number where several have it."""
    names = {root: root.resolve().name or "root" for root in roots}
    spaces: dict[Path, str] = {}
    for root, name in names.items():
        # A number never makes the name of another one's folder.
        others = {*spaces.values(), *(set(names.values()) - {name})}
        numbered = (f"{name}-{number}" for number in count(2))
        spaces[root] = next(one for one in chain((name,), numbered) if one not in others)
    return spaces


def _identity(root: Path) -> tuple[int, int]:
    found = root.stat()
    return found.st_dev, found.st_ino
