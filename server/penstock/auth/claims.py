"""Signed claims (JSON Web Tokens, RFC 7519) of the issuers that the operator believes.

The algorithms are the operator's choice, never the token's. Needs PyJWT, the extra `jwt`.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from penstock.auth.caller import Allowance, Caller, Tally
from penstock.auth.document import ClaimRule, IssuerRule
from penstock_runtime.errors import InvalidArgument

MOST_TOKEN = 8192
_SUBJECT = 64


class Keys(Protocol):
    """Where the key of a token comes from."""

    def find(self, token: str) -> Any:
        """The key; LookupError if there is none for it."""


class OneKey:
    """The key of an issuer that has one."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def find(self, _token: str) -> Any:
        """The key."""
        return self._key


class KeySet:
    """The keys of an issuer that has several, by their ids."""

    def __init__(self, jwt: Any, text: str) -> None:
        self._jwt = jwt
        self._keys = {key.key_id: key.key for key in jwt.PyJWKSet.from_json(text).keys}

    def find(self, token: str) -> Any:
        """The key that the token's header names."""
        return self._keys[self._jwt.get_unverified_header(token).get("kid")]


class Issuers:
    """Turns a signed token into a caller."""

    def __init__(self, rules: Sequence[IssuerRule], denied: Tally | None = None) -> None:
        self._denied = denied
        self._jwt = _library() if rules else None
        self._by_name = {rule.issuer: (rule, _keys(self._jwt, rule)) for rule in rules}

    def caller(self, token: str) -> Caller | None:
        """Who the token speaks for, until it expires; None if it is not to be believed."""
        if len(token) > MOST_TOKEN or token.count(".") != 2:
            return None
        found = self._by_name.get(_issuer(token))
        if found is None:
            return None
        rule, keys = found
        claims = self._verified(token, rule, keys)
        if claims is None:
            return None
        allowances = [grant.allowance for grant in rule.grants if _holds(claims, grant)]
        return _caller(rule, claims, allowances, self._denied)

    def _verified(self, token: str, rule: IssuerRule, keys: Keys) -> Mapping[str, Any] | None:
        jwt: Any = self._jwt
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                keys.find(token),
                algorithms=list(rule.algorithms),
                audience=rule.audience,
                issuer=rule.issuer,
                leeway=rule.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, LookupError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        return claims


def _caller(
    rule: IssuerRule,
    claims: Mapping[str, Any],
    allowances: Sequence[Allowance],
    denied: Tally | None,
) -> Caller:
    subject = "".join(c if c.isprintable() else "?" for c in str(claims.get("sub", "")))[:_SUBJECT]
    name = f"{rule.name}:{subject}" if subject else rule.name
    return Caller(name, allowances, _seconds(claims["exp"]) + rule.leeway_s, denied)


def _seconds(time: Any) -> float:
    """A time that was found good; what no float can hold is for ever."""
    try:
        return float(time)
    except OverflowError:
        return math.inf


def _holds(claims: Mapping[str, Any], grant: ClaimRule) -> bool:
    """Whether the claim is the value, or has it among its words (as `scope`) or in its list."""
    value = claims.get(grant.claim)
    if isinstance(value, str):
        return grant.value == value or grant.value in value.split()
    return isinstance(value, list) and grant.value in value


def _issuer(token: str) -> str:
    """What the token says of who signed it; nothing is believed yet, it only chooses the key."""
    body = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return ""
    issuer = claims.get("iss", "") if isinstance(claims, dict) else ""
    return issuer if isinstance(issuer, str) else ""


def _library() -> Any:
    try:
        import jwt
    except ImportError:
        raise InvalidArgument(
            "signed tokens need the extra penstock[jwt] (pip install 'penstock[jwt]')"
        ) from None
    return jwt


def _keys(jwt: Any, rule: IssuerRule) -> Keys:
    path = rule.public_key_file or rule.secret_file or rule.jwks_file
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
        if rule.jwks_file:
            return KeySet(jwt, text)
        algorithm = jwt.get_algorithm_by_name(rule.algorithms[0])
        return OneKey(algorithm.prepare_key(text))
    # What the library raises of a file that is no key is of many kinds.
    except Exception as error:
        raise InvalidArgument(
            f"the key of issuer '{rule.name}' cannot be read ({type(error).__name__})"
        ) from None
