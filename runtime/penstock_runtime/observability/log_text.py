"""Text that is safe in a log: one line, whatever it is made of, and times as ISO 8601."""

import time
from functools import lru_cache

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def one_line(text: str, limit: int | None = None) -> str:
    """The text with everything escaped that could end the line, move a cursor or turn the reading
    direction; beyond `limit` characters it is cut and says so.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}...({len(text)} characters)"
    return text if text.isprintable() else "".join(map(_escaped, text))


def timestamp(wall_ns: int) -> str:
    """Nanoseconds since the epoch as UTC, to the microsecond: 2026-01-31T12:00:00.123456Z."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{ns // 1000:06d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
