"""The one that is asked who calls, with every call that somebody must be known for.

Its rules can be read anew meanwhile.
"""

import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.auth.caller import Caller, Tally
from penstock.auth.claims import Issuers
from penstock.auth.document import AuthRules, read_rules
from penstock.config_document import read_document
from penstock.rpc import Category, Rpc
from penstock_runtime.errors import InvalidArgument, Unauthenticated
from penstock_runtime.observability.metrics import Family, Sample

_log = logging.getLogger("penstock.auth")
_audit = logging.getLogger("penstock.audit")

HEADER, SCHEME = "authorization", "bearer "
MOST_REMEMBERED = 4096
# Bytes of a digest that find it among the others.
_SHORT = 16
_NOBODY: tuple[bytes, Caller | None] = (bytes(32), None)
# What changes a server, and is told in the log with the name of who asked for it.
_ADMIN = frozenset(
    (Category.MODEL_REPOSITORY, Category.LOGGING, Category.TRACE, Category.SHARED_MEMORY)
)


class Authority:
    """Knows callers by their tokens. Lives on the event loop."""

    def __init__(self, rules: AuthRules, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.unknown = 0
        self._denied = Tally()
        self.become(rules)

    def become(self, rules: AuthRules) -> None:
        """Judge by these rules from now on; InvalidArgument, and nothing changes, if one of their
        keys cannot be read.
        """
        issuers = Issuers(rules.issuers, self._denied)
        self._issuers = issuers
        self._open = rules.open
        self._tokens: dict[bytes, tuple[bytes, Caller | None]] = {
            r.digest[:_SHORT]: (r.digest, Caller(r.name, (r.allowance,), denied=self._denied))
            for r in rules.tokens
        }
        # Signed tokens that were found good, by their digest; the oldest goes first.
        self._remembered: OrderedDict[bytes, Caller] = OrderedDict()

    # -- with a call -----------------------------------------------------------------------------

    def admit(self, rpc: Rpc, call: Any) -> None:
        """Note on the call what its sender may do; Unauthenticated or PermissionDenied if it is
        nothing.
        """
        if rpc.category in self._open:
            return
        caller = self._identify(call.metadata)
        call.permit = caller.permit(rpc.category)
        if rpc.category in _ADMIN:
            _audit.info("%s by %r from %s", rpc.name, caller.name, call.peer)

    def _identify(self, metadata: Mapping[str, str]) -> Caller:
        given = metadata.get(HEADER, "")
        if given[: len(SCHEME)].lower() != SCHEME:
            self.unknown += 1
            raise Unauthenticated(
                "this server serves who it knows: send the metadata 'authorization: Bearer TOKEN'",
                reason="TOKEN_MISSING",
            )
        token = given[len(SCHEME) :].strip()
        caller = self._known(token_digest(token), token)
        if caller is None:
            self.unknown += 1
            raise Unauthenticated("the token is not valid, or not any more", reason="TOKEN_INVALID")
        return caller

    def _known(self, digest: bytes, token: str) -> Caller | None:
        # Looked up by a digest, which nobody can bring near to another one's; then compared in a
        # time that tells nothing either.
        known, caller = self._tokens.get(digest[:_SHORT], _NOBODY)
        if hmac.compare_digest(known, digest):
            return caller
        return self._signed(digest, token)

    def _signed(self, digest: bytes, token: str) -> Caller | None:
        now = self._clock()
        # By digest: whoever guesses cannot choose what it is compared with.
        caller = self._remembered.get(digest)
        if caller is None:
            caller = self._issuers.caller(token)
            if caller is None:
                return None
            self._remember(digest, caller)
        if caller.expires_s is not None and caller.expires_s <= now:
            self._remembered.pop(digest, None)
            return None
        return caller

    def _remember(self, digest: bytes, caller: Caller) -> None:
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[digest] = caller

    # -- what is told of it ----------------------------------------------------------------------

    def families(self) -> list[Family]:
        """How many calls were turned away."""
        samples = (
            Sample(self.unknown, {"reason": "unknown"}),
            Sample(self._denied.number, {"reason": "denied"}),
        )
        text = "Calls of senders who are not known, or may not do what they asked for"
        return [Family("penstock_auth_refused_total", "counter", text, samples)]

    def __repr__(self) -> str:
        return f"<Authority {len(self._tokens)} tokens, {len(self._remembered)} remembered>"


def token_digest(token: str) -> bytes:
    """SHA-256 of a token, as it is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def read_authority(path: str) -> Authority | None:
    """The authority of `--auth-config`; None without one. InvalidArgument says what is wrong."""
    return Authority(read_file_rules(path)) if path else None


def read_file_rules(path: str) -> AuthRules:
    """The rules in a file; InvalidArgument says what is wrong."""
    try:
        return read_rules(read_document(Path(path), "--auth-config"), token_digest)
    except InvalidArgument as error:
        told = error.message
        raise InvalidArgument(told if told.startswith("--") else f"--auth-config: {told}") from None


def read_again(authority: Authority, path: str) -> None:
    """Take the rules from their file again; a mistake in it leaves those that there were."""
    try:
        authority.become(read_file_rules(path))
    except InvalidArgument as error:
        _log.error("%s; the rules of before stay in force", error.message)
    else:
        _log.info("%s: the rules were read again, %r", "--auth-config", authority)
