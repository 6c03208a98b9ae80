"""What a name stands for at one moment: a set of versions that were published together, and how the
next set is built out of it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Generic

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check_ensemble import part_names
from penstock_runtime.errors import Internal, InvalidArgument, PenstockError, Violation
from penstock_runtime.repository.index import ModelFolder, Signature
from penstock_runtime.repository.lifecycle import WHOLE_MODEL
from penstock_runtime.repository.loader import (
    Loader,
    ModelT,
    Prepared,
    Regroupable,
    short_reason,
)
from penstock_runtime.repository.overrides import OverrideFolder
from penstock_runtime.repository.routes import shown

_log = logging.getLogger("penstock.repository")


@dataclass(frozen=True, slots=True)
class Member(Generic[ModelT]):
    """One version that serves, and what it was made of; `config` is as it was read.

    With a `change` it is the model that has served, and about to become what the rest says.
    """

    model: ModelT
    root: Path
    config: ModelConfig
    signature: Signature
    change: Prepared | None = None

    def still_fits(self, folder: ModelFolder, config: ModelConfig) -> bool:
        """Whether loading it again would give the same, and nothing is wrong with this one."""
        return self.config == config and self._same_files(folder)

    def differs_in_groups(self, folder: ModelFolder, config: ModelConfig) -> bool:
        """Whether loading it again would give the same, but for its instances."""
        alike = replace(self.config, instance_group=()) == replace(config, instance_group=())
        return alike and self._same_files(folder)

    def _same_files(self, folder: ModelFolder) -> bool:
        return (
            self.root == folder.root
            and self.signature == folder.version_signature(self.model.version)
            and self.model.healthy
        )

    def settled(self) -> "Member[ModelT]":
        """The member once it is published."""
        if self.change is None:
            return self
        self.change.settle()
        return replace(self, change=None)


@dataclass(frozen=True, slots=True)
class Generation(Generic[ModelT]):
    """The versions of one model that serve together; `home` holds the caller's files, if any."""

    members: Mapping[int, Member[ModelT]] = field(default_factory=lambda: MappingProxyType({}))
    home: OverrideFolder | None = None

    @property
    def models(self) -> dict[int, ModelT]:
        """The models by version."""
        return {version: member.model for version, member in self.members.items()}

    @property
    def steps(self) -> tuple[str, ...]:
        """The models that this one, an ensemble, is made of."""
        members = self.members.values()
        return tuple(name for member in members for name in part_names(member.model.config))


class PollFailed(Internal):
    """The model could not even be looked up; `reasons` says why, for the index."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"failed to load '{shown(name)}', failed to poll from model repository",
            reason="MODEL_NOT_POLLED",
            violations=(Violation("model_name", reason),),
        )
        self.reasons: Mapping[int, str] = {WHOLE_MODEL: reason}


class LoadFailed(InvalidArgument):
    """Versions that did not come up; `reasons` are by version."""

    def __init__(self, name: str, reasons: Mapping[int, str]) -> None:
        versions = " ".join(
            f"version {version} is at UNAVAILABLE state: {reason};"
            for version, reason in sorted(reasons.items())
        )
        super().__init__(
            f"load failed for model '{shown(name)}': {versions}", reason="MODEL_LOAD_FAILED"
        )
        self.reasons = reasons


def assemble(
    loader: Loader[ModelT],
    folder: ModelFolder,
    config: ModelConfig,
    versions: Sequence[int],
    old: Generation[ModelT],
    retries: int,
) -> dict[int, Member[ModelT]]:
    """The members of the next generation: unchanged ones are taken over, the others are built.

    All or nothing: LoadFailed when one fails, and what had been built by then is stopped again.
    """
    members: dict[int, Member[ModelT]] = {}
    reasons: dict[int, str] = {}
    for version in versions:
        kept = old.members.get(version)
        if kept is not None and kept.still_fits(folder, config):
            members[version] = kept
            continue
        try:
            regrouped = kept and _regroup(loader, folder, config, kept)
            if regrouped:
                members[version] = regrouped
                continue
            model = _build(loader, folder, config, version, retries)
        # A model's own code is run here, and it may well call sys.exit().
        except (Exception, SystemExit) as error:
            reasons[version] = short_reason(error)
            continue
        signature = folder.version_signature(version)
        members[version] = Member(model, folder.root, config, signature)
    if reasons:
        discard(members, old)
        raise LoadFailed(folder.name, reasons)
    return members


def discard(members: Mapping[int, Member[ModelT]], old: Generation[ModelT]) -> None:
    """Stop what was built and will never be published; what the old generation lent is kept."""
    for version, member in members.items():
        if old.members.get(version) is member:
            continue
        try:
            if member.change is not None:
                member.change.undo()
            else:
                member.model.stop()
        except Exception:
            _log.exception("model '%s': version %d did not stop", member.config.name, version)


def _regroup(
    loader: Loader[ModelT], folder: ModelFolder, config: ModelConfig, kept: Member[ModelT]
) -> Member[ModelT] | None:
    """The model that serves, about to have other instances; None where it takes a reload."""
    model: object = kept.model
    if not (isinstance(model, Regroupable) and kept.differs_in_groups(folder, config)):
        return None
    complete = loader.regrouped(folder, config, kept.model.config, kept.model.version)
    change = model.regroup(complete)
    return None if change is None else replace(kept, config=config, change=change)


def _build(
    loader: Loader[ModelT], folder: ModelFolder, config: ModelConfig, version: int, retries: int
) -> ModelT:
    for attempt in range(retries + 1):
        try:
            return loader.build(folder, config, version)
        except (Exception, SystemExit) as error:
            known = isinstance(error, PenstockError)
            _log.error(
                "model '%s': version %d failed to load (attempt %d of %d): %s",
                folder.name,
                version,
                attempt + 1,
                retries + 1,
                error,
                exc_info=None if known else error,
            )
            if attempt == retries:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")
