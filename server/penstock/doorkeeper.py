"""What is asked of a call before its handler sees it: Triton's secrets of restricted protocols, and
who the caller is. Which questions a method has is found out once, at the start.
"""

from collections.abc import Callable
from typing import Any

from penstock.auth.authority import Authority
from penstock.restrictions import UNRESTRICTED, Restriction, Restrictions
from penstock.rpc import Category, Rpc

Check = Callable[[Any], None]
"""Raises what refuses a call."""


class Doorkeeper:
    """Knows the questions of every method."""

    def __init__(
        self, restrictions: Restrictions = UNRESTRICTED, authority: Authority | None = None
    ) -> None:
        self._restrictions = restrictions
        self._authority = authority

    def check(self, rpc: Rpc) -> Check | None:
        """The question of a method; None if anyone may call it."""
        restriction = self._restrictions.get(rpc.category)
        # Reflection tells nothing that is not public.
        authority = self._authority if rpc.category is not Category.REFLECTION else None
        if authority is None:
            return _secret(restriction) if restriction is not None else None
        return _identity(rpc, authority, restriction)


OPEN = Doorkeeper()


def _secret(restriction: Restriction) -> Check:
    def check(call: Any) -> None:
        restriction.check(call.metadata)

    return check


def _identity(rpc: Rpc, authority: Authority, restriction: Restriction | None) -> Check:
    def check(call: Any) -> None:
        if restriction is not None:
            restriction.check(call.metadata)
        authority.admit(rpc, call)

    return check
