"""Who calls, and what that allows. Knows neither where a token came from nor how it was checked."""

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate

from penstock.rpc import Category
from penstock_runtime.errors import PermissionDenied

EVERY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class Allowance:
    """Groups of RPCs, and the models (names, or patterns as of a shell) that they may be about."""

    groups: frozenset[Category]
    models: tuple[str, ...] = (EVERY_MODEL,)


class Tally:
    """Counts refusals, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.number = 0

    def add(self) -> None:
        """One more."""
        with self._lock:
            self.number += 1


@dataclass(frozen=True, slots=True)
class Permit:
    """What a caller may do in one group of RPCs; `models` None means any."""

    caller: str = ""
    models: re.Pattern[str] | None = field(default=None, repr=False)
    denied: Tally = field(default_factory=Tally, repr=False, compare=False)

    def sees(self, model: str) -> bool:
        """Whether the permit is good for this model, there or not."""
        return self.models is None or self.models.fullmatch(model) is not None

    def check(self, model: str) -> None:
        """PermissionDenied, if it is not; asked before anyone looks whether there is such a model,
        so that the answer does not tell.
        """
        if not self.sees(model):
            self.denied.add()
            raise PermissionDenied(
                f"'{self.caller}' may not use model '{model[:128]}'", reason="MODEL_NOT_ALLOWED"
            )


ANYONE = Permit()
"""Of a call that nobody has to be known for."""


class Caller:
    """Someone who is known, with a permit for each group of RPCs that is allowed.

    `expires_s` is the wall-clock time (seconds since 1970) from which on the caller is unknown
    again; refusals are counted in `denied`.
    """

    def __init__(
        self,
        name: str,
        allowances: Iterable[Allowance],
        expires_s: float | None = None,
        denied: Tally | None = None,
    ) -> None:
        self.name = name
        self.expires_s = expires_s
        self._denied = denied if denied is not None else Tally()
        self._permits = _permits(name, tuple(allowances), self._denied)

    def permit(self, category: Category) -> Permit:
        """The permit for this group; PermissionDenied if there is none."""
        found = self._permits.get(category)
        if found is None:
            self._denied.add()
            raise PermissionDenied(
                f"'{self.name}' may not call the group '{category.value}'",
                reason="GROUP_NOT_ALLOWED",
            )
        return found

    def __repr__(self) -> str:
        groups = ", ".join(category.value for category in self._permits)
        return f"<Caller {self.name!r}: {groups or 'nothing'}>"


def permit_of(call: object) -> Permit:
    """What the guard has found a call's sender to be allowed; anything where nobody asks."""
    permit: Permit = getattr(call, "permit", ANYONE)
    return permit


def _permits(
    name: str, allowances: tuple[Allowance, ...], denied: Tally
) -> Mapping[Category, Permit]:
    granted: dict[Category, set[str]] = {}
    for allowance in allowances:
        for category in allowance.groups:
            granted.setdefault(category, set()).update(allowance.models)
    return {
        category: Permit(name, _pattern(models), denied) for category, models in granted.items()
    }


def _pattern(models: set[str]) -> re.Pattern[str] | None:
    if EVERY_MODEL in models:
        return None
    return re.compile("|".join(translate(model) for model in sorted(models)))
