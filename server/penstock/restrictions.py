"""Groups of RPCs that answer only who knows a secret: Triton's restricted protocols.

What is restricted is a category of the table, never the text of a path, so that whatever other row
leads to the same handlers is restricted with it. A secret is compared, and shown to nobody.
"""

import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock.rpc import Category
from penstock_runtime.errors import (
    InvalidArgument,
    PenstockError,
    PermissionDenied,
    Unavailable,
)

FORM = "<group>[,<group>]:<key>=<value>"
HEADER_PREFIX = "triton-grpc-protocol-"
MAX_KEY, MAX_VALUE = 128, 4096
NEVER_NS = -1

# Reflection is no protocol of Triton's, and tells nothing that is not public.
GROUPS: Mapping[str, Category] = MappingProxyType(
    {category.value: category for category in Category if category is not Category.REFLECTION}
)

_GROUP = re.compile(r"[a-z][a-z_-]{0,31}")
_KEY = re.compile(r"[a-z0-9_.-]+")
# What gRPC carries as a text, blanks around it excepted.
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class Restriction:
    """One secret: the metadata that has to bear it, and what it is."""

    header: str
    secret: bytes = field(repr=False)

    def check(self, metadata: Mapping[str, str]) -> None:
        """Unavailable, in Triton's words, for a caller who does not know the secret."""
        given = metadata.get(self.header, "").encode("utf-8", "surrogatepass")
        # Not `==`, whose time tells how much of a guess is right.
        if not hmac.compare_digest(given, self.secret):
            raise self.refusal()

    def refusal(self) -> PenstockError:
        """What those are told who do not know the secret."""
        return Unavailable(
            f"This protocol is restricted, expecting header '{self.header}'",
            reason="RESTRICTED_PROTOCOL",
            # Triton's status says "try again" to clients, which would do so in vain.
            retry_after_ns=NEVER_NS,
        )


class ApiRestriction(Restriction):
    """The same over HTTP, in Triton's words for that."""

    __slots__ = ()

    def refusal(self) -> PenstockError:
        """Forbidden, which no client tries again."""
        return PermissionDenied(
            f"This API is restricted, expecting header '{self.header}'",
            reason="RESTRICTED_PROTOCOL",
        )


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a port is told its restrictions: the flag, and what is before a key in its header."""

    flag: str
    prefix: str
    make: Callable[[str, bytes], Restriction]


GRPC = Dialect("--grpc-restricted-protocol", HEADER_PREFIX, Restriction)
HTTP = Dialect("--http-restricted-api", "", ApiRestriction)

Restrictions = Mapping[Category, Restriction]
UNRESTRICTED: Restrictions = MappingProxyType({})


def read_restrictions(texts: Sequence[str], dialect: Dialect = GRPC) -> Restrictions:
    """What the values of the flag restrict; InvalidArgument tells a mistake, never the secret."""
    found: dict[Category, Restriction] = {}
    for text in texts:
        groups, restriction = _split(text, dialect)
        for group in groups:
            category = _category(group, dialect.flag)
            if category in found:
                raise InvalidArgument(
                    f"{dialect.flag}: protocol '{group}' can not be specified in multiple config"
                    " groups"
                )
            found[category] = restriction
    return MappingProxyType(found)


def describe_restrictions(restrictions: Restrictions) -> str:
    """Which groups need which header, for the log."""
    return ", ".join(_told(restrictions))


def _told(restrictions: Restrictions) -> Iterator[str]:
    for category, restriction in restrictions.items():
        yield f"{category.value} ({restriction.header})"


def _split(text: str, dialect: Dialect) -> tuple[Sequence[str], Restriction]:
    flag = dialect.flag
    groups, colon, rest = text.partition(":")
    key, equals, value = rest.partition("=")
    # Who forgot a part may have the secret anywhere, so nothing of the text is repeated.
    if not (groups and colon and key and equals and value):
        raise InvalidArgument(f"{flag}: expected {FORM}, a part is missing")
    made = dialect.make(dialect.prefix + _key(key, flag), _secret(value, flag))
    return groups.split(","), made


def _category(group: str, flag: str) -> Category:
    category = GROUPS.get(group)
    if category is not None:
        return category
    expected = f"expected one of {', '.join(GROUPS)}"
    if _GROUP.fullmatch(group):
        raise InvalidArgument(f"{flag}: unknown restricted protocol '{group}', {expected}")
    # No name at all: it may be a piece of the secret.
    raise InvalidArgument(f"{flag}: expected {FORM}; a group is not a name, {expected}")


def _key(key: str, flag: str) -> str:
    """The key as it travels: names of metadata are in lower case."""
    name = key.lower()
    # A name that ends in -bin would mean that the value is binary.
    if len(name) > MAX_KEY or not _KEY.fullmatch(name) or name.endswith("-bin"):
        raise InvalidArgument(
            f"{flag}: expected a key of at most {MAX_KEY} letters, digits, '-', '_' and '.' that "
            "does not end in '-bin'"
        )
    return name


def _secret(value: str, flag: str) -> bytes:
    if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
        raise InvalidArgument(
            f"{flag}: expected a value of at most {MAX_VALUE} printable ASCII characters without "
            f"blanks around it, got {len(value)} characters"
        )
    return value.encode("ascii")
