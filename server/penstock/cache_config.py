"""What the flags say of the response cache: Triton's `--cache-config=local,size=BYTES`, its older
`--response-cache-byte-size`, and a time to live of our own.

Imports nothing of the models': the supervisor of several processes asks it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_runtime.errors import InvalidArgument

_LOCAL = "local"
_LONGEST_S = 1e9
_EXPECTED = "expected local,size=BYTES, with ttl=SECONDS if answers grow old"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How large the cache is (0: there is none) and how old its answers become (0: any age)."""

    size: int = 0
    ttl_s: float = 0.0

    def flags(self) -> tuple[str, ...]:
        """What `--cache-config` would say."""
        if not self.size:
            return ()
        age = f",ttl={self.ttl_s!r}" if self.ttl_s else ""
        return (f"{_LOCAL},size={self.size}{age}",)


def cache_settings(settings: Sequence[str], byte_size: int = 0) -> CacheSettings:
    """What the flags ask for; InvalidArgument names what is wrong.

    Each setting may hold several parts; all of them together are one cache.
    """
    values = _values(settings)
    size = values.get("size")
    if size is not None and byte_size:
        raise InvalidArgument(
            "--cache-config and --response-cache-byte-size both give a size; leave one out"
        )
    if size is None and settings and not byte_size:
        raise InvalidArgument(f"--cache-config {','.join(settings)!r}: no size; {_EXPECTED}")
    return CacheSettings(int(size or byte_size), values.get("ttl", 0.0))


def _values(settings: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for part in ",".join(settings).split(","):
        key, is_pair, text = part.strip().partition("=")
        if not is_pair:
            if key not in ("", _LOCAL):
                raise InvalidArgument(f"--cache-config: there is no cache {key!r}; {_EXPECTED}")
            continue
        values[key] = _number(key, text)
    return values


def _number(key: str, text: str) -> float:
    try:
        if key == "size" and int(text) >= 0:
            return int(text)
        if key == "ttl" and 0 < float(text) <= _LONGEST_S:
            return float(text)
    except ValueError:
        pass
    raise InvalidArgument(f"--cache-config: {key}={text!r}; {_EXPECTED}")
