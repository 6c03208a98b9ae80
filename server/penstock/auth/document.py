"""The file behind `--auth-config`, held against what it may say. Nothing in it is repeated in an
error but names of settings: everything else may be a secret.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from penstock.auth.caller import EVERY_MODEL, Allowance
from penstock.restrictions import GROUPS
from penstock.rpc import Category
from penstock_runtime.errors import InvalidArgument

T = TypeVar("T")

MOST_ENTRIES, MOST_TEXT = 10_000, 4096
# What a client of the models needs; whatever changes the server has to be said.
DEFAULT_GROUPS = (Category.HEALTH, Category.METADATA, Category.INFERENCE)
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
    *("HS256", "HS384", "HS512"),
)


@dataclass(frozen=True, slots=True)
class TokenRule:
    """A token, known by its SHA-256 (32 bytes), and what it allows."""

    name: str
    digest: bytes = field(repr=False)
    allowance: Allowance


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """What a claim allows if it holds this value: as its text, among its words or in its list."""

    claim: str
    value: str
    allowance: Allowance


@dataclass(frozen=True, slots=True)
class IssuerRule:
    """Whose signed claims are believed; exactly one of the files is given."""

    name: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    leeway_s: float
    public_key_file: str
    secret_file: str
    jwks_file: str
    grants: tuple[ClaimRule, ...]


@dataclass(frozen=True, slots=True)
class AuthRules:
    """Everything that the file says; `open` are the groups that anyone may call."""

    open: frozenset[Category] = frozenset((Category.HEALTH,))
    tokens: tuple[TokenRule, ...] = ()
    issuers: tuple[IssuerRule, ...] = ()


class Section:
    """One mapping of the file; what is asked for is checked, what nobody asked for is refused."""

    def __init__(self, content: Any, place: str) -> None:
        if not isinstance(content, Mapping):
            raise InvalidArgument(f"{place}: expected a mapping, got {type(content).__name__}")
        self.place = place
        self._left = {str(key): value for key, value in content.items()}

    def text(self, key: str, default: str | None = None) -> str:
        """A text; without a default it must be there."""
        value = self._left.pop(key, default)
        if value is None:
            raise InvalidArgument(f"{self.place}: '{key}' is missing")
        if not isinstance(value, str) or (not value.strip() and default is None):
            raise InvalidArgument(f"{self.place}.{key}: expected a text")
        if len(value) > MOST_TEXT:
            raise InvalidArgument(f"{self.place}.{key}: expected at most {MOST_TEXT} characters")
        return value

    def number(self, key: str, default: float) -> float:
        """A number of 0 and above."""
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise InvalidArgument(f"{self.place}.{key}: expected a number of 0 and above")
        return float(value)

    def texts(self, key: str, default: Sequence[str]) -> tuple[str, ...]:
        """A list of texts, not empty if it is given."""
        value = self._left.pop(key, None)
        if value is None:
            return tuple(default)
        fine = isinstance(value, list) and 0 < len(value) <= MOST_ENTRIES
        if not fine or not all(isinstance(item, str) and item for item in value):
            raise InvalidArgument(f"{self.place}.{key}: expected a list of texts")
        return tuple(value)

    def each(self, key: str, read: "Callable[[Section], T]") -> tuple[T, ...]:
        """What `read` makes of each mapping in a list."""
        value = self._left.pop(key, [])
        if not isinstance(value, list) or len(value) > MOST_ENTRIES:
            raise InvalidArgument(f"{self.place}{key}: expected a list of at most {MOST_ENTRIES}")
        made = []
        for index, item in enumerate(value):
            section = Section(item, f"{self.place}{key}[{index}]")
            made.append(read(section))
            section.end()
        return tuple(made)

    def one_of(self, *keys: str) -> str:
        """Which of these is there, which must be one."""
        found = [key for key in keys if key in self._left]
        if len(found) != 1:
            raise InvalidArgument(f"{self.place}: expected exactly one of {', '.join(keys)}")
        return found[0]

    def end(self) -> None:
        """Refuse what nobody asked for."""
        for key in self._left:
            known = key if key.isidentifier() and len(key) <= 32 else "a setting"
            raise InvalidArgument(f"{self.place or 'the file'}: {known} is not known here")


def read_rules(content: Any, digest: Callable[[str], bytes]) -> AuthRules:
    """The rules in a parsed file; `digest` is the SHA-256 of a token. InvalidArgument says what is
    wrong, and where.
    """
    top = Section(content, "")
    default = AuthRules()
    opened = top.texts("open", [category.value for category in default.open])
    tokens = top.each("tokens", lambda section: _token(section, digest))
    issuers = top.each("jwt", _issuer)
    top.end()
    _unique("tokens", "name", [rule.name for rule in tokens])
    _unique("tokens", "token", [rule.digest for rule in tokens])
    _unique("jwt", "issuer", [rule.issuer for rule in issuers])
    groups = frozenset(_group(name, "open") for name in opened if name != "none")
    return AuthRules(groups, tokens, issuers)


def _token(section: Section, digest: Callable[[str], bytes]) -> TokenRule:
    name, kind = section.text("name"), section.one_of("token", "sha256", "token_file")
    text = section.text(kind).strip()
    if kind == "sha256":
        if len(text) != 64 or not set(text) <= set(string.hexdigits):
            raise InvalidArgument(f"{section.place}.sha256: expected 64 hexadecimal digits")
        return TokenRule(name, bytes.fromhex(text), _allowance(section))
    if kind == "token_file":
        text = _file(text, f"{section.place}.token_file")
    return TokenRule(name, digest(text), _allowance(section))


def _file(path: str, place: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{place}: cannot be read ({type(error).__name__})") from None
    if not 0 < len(text) <= MOST_TEXT:
        raise InvalidArgument(f"{place}: expected 1 to {MOST_TEXT} characters in the file")
    return text


def _issuer(section: Section) -> IssuerRule:
    algorithms = section.texts("algorithms", ())
    kind = section.one_of("public_key_file", "secret_file", "jwks_file")
    _check_algorithms(section, algorithms, symmetric=kind == "secret_file")
    files = {"public_key_file": "", "secret_file": "", "jwks_file": "", kind: section.text(kind)}
    return IssuerRule(
        name=section.text("name"),
        issuer=section.text("issuer"),
        audience=section.text("audience"),
        algorithms=algorithms,
        leeway_s=section.number("leeway_seconds", 30.0),
        grants=section.each("grants", _grant),
        **files,
    )


def _check_algorithms(section: Section, algorithms: Sequence[str], *, symmetric: bool) -> None:
    """A key is for one kind of algorithm: a public key must never be taken for a shared secret."""
    fitting = [name for name in ALGORITHMS if name.startswith("HS") is symmetric]
    if not algorithms or not set(algorithms) <= set(fitting):
        raise InvalidArgument(f"{section.place}.algorithms: expected some of {', '.join(fitting)}")


def _grant(section: Section) -> ClaimRule:
    return ClaimRule(section.text("claim"), section.text("value"), _allowance(section))


def _allowance(section: Section) -> Allowance:
    names = section.texts("groups", [category.value for category in DEFAULT_GROUPS])
    place = f"{section.place}.groups"
    models = section.texts("models", (EVERY_MODEL,))
    return Allowance(frozenset(_group(name, place) for name in names), models)


def _group(name: str, place: str) -> Category:
    found = GROUPS.get(name)
    if found is None:
        raise InvalidArgument(f"{place}: expected some of {', '.join(GROUPS)}")
    return found


def _unique(place: str, what: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise InvalidArgument(f"{place}: the same {what} stands in two entries")
