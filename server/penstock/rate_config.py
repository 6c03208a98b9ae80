"""What the flags say of the rate limiter: Triton's `--rate-limit` and `--rate-limit-resource`.

Imports nothing of the models'.
"""

import logging
from collections.abc import Mapping, Sequence

from penstock_runtime.errors import InvalidArgument

_log = logging.getLogger("penstock.server")

OFF, EXECUTION_COUNT = "off", "execution_count"
_MOST = 2**31 - 1
_EXPECTED = "expected NAME:COUNT or NAME:COUNT:DEVICE"

RateTotals = Mapping[tuple[str, int | None], int]
"""How much there is of each resource, by name in lower case and device (None: of each device)."""


def rate_totals(mode: str, resources: Sequence[str]) -> RateTotals | None:
    """What is given of each resource, the last word of several; None where nothing is limited.

    InvalidArgument names the flag that is wrong.
    """
    totals = dict(_resource(text) for text in resources)
    if mode != OFF:
        return totals
    if totals:
        _log.warning("--rate-limit-resource has no effect without --rate-limit=%s", EXECUTION_COUNT)
    return None


def _resource(text: str) -> tuple[tuple[str, int | None], int]:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0].strip():
        raise InvalidArgument(f"--rate-limit-resource {text[:80]!r}: {_EXPECTED}")
    name = parts[0].strip().casefold()
    count = _number(text, "COUNT", parts[1], 1)
    device = _number(text, "DEVICE", parts[2], 0) if len(parts) == 3 else None
    return (name, device), count


def _number(text: str, what: str, value: str, least: int) -> int:
    digits = value.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 11):
        raise InvalidArgument(
            f"--rate-limit-resource {text[:80]!r}: {what} is {value[:20]!r}; {_EXPECTED}"
        )
    number = int(digits)
    if not least <= number <= _MOST:
        raise InvalidArgument(
            f"--rate-limit-resource {text[:80]!r}: {what} is {number}, expected {least} to {_MOST}"
        )
    return number
