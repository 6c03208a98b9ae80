"""The header grpc-timeout: how long the caller waits, in one of six units."""

import re

MAX_DIGITS = 8
_MOST = 10**MAX_DIGITS - 1
LONGEST_NS = 365 * 24 * 3_600_000_000_000
"""A year. Nobody waits longer, but clocks and locks are asked for what the protocol can say: eleven
thousand years, which are more than 64 bits of nanoseconds."""

_UNITS = (
    (b"n", 1),
    (b"u", 1_000),
    (b"m", 1_000_000),
    (b"S", 1_000_000_000),
    (b"M", 60_000_000_000),
    (b"H", 3_600_000_000_000),
)
_NANOSECONDS = {unit[0]: size for unit, size in _UNITS}
_LENIENT = re.compile(rb" *([0-9]{1,10}) *([numSMH]) *")


def parse_timeout(value: bytes) -> int | None:
    """Nanoseconds, from 0 to `LONGEST_NS`; None for what is no timeout.

    Ten digits and blanks are taken as grpc's core takes them, although 8 digits are what the
    protocol allows.
    """
    digits = value[:-1]
    if digits.isdigit() and len(digits) <= MAX_DIGITS:
        size = _NANOSECONDS.get(value[-1])
        if size is None:
            return None
        timeout_ns = int(digits) * size
    else:
        match = _LENIENT.fullmatch(value)
        if match is None:
            return None
        timeout_ns = int(match[1]) * _NANOSECONDS[match[2][0]]
    return timeout_ns if timeout_ns < LONGEST_NS else LONGEST_NS


def format_timeout(timeout_ns: int) -> bytes:
    """The header's value in the finest unit that holds it, rounded up.

    What is past already becomes one nanosecond: the protocol has no other word for it. The longest
    is 99,999,999 hours.
    """
    timeout_ns = max(timeout_ns, 1)
    for unit, size in _UNITS:
        number = -(-timeout_ns // size)
        if number <= _MOST:
            return b"%d%b" % (number, unit)
    return b"%dH" % _MOST
