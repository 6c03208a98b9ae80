"""Responses by the hash of the requests that they answer, within a number of bytes.

`ResponseStore` decides and is pure: the time is an argument. `ResponseCache` is the one of a
server, with the lock where the models' threads meet. Neither knows requests, models or what a hit
means.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.metrics import Family, Kind, Sample
from penstock_runtime.tensor import Tensor

# What an entry and each of its tensors cost beside the data, measured with tracemalloc and rounded
# up: without them, a cache of a million small answers would be several times its size.
ENTRY_BYTES = 500
TENSOR_BYTES = 450
# Entries that are forgotten while the lock is held once.
FORGET_AT_ONCE = 1024


class Kept(NamedTuple):
    """The outputs of one response; nothing else holds their arrays, nobody can write to them."""

    outputs: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """What it costs to keep."""
        data = sum(_bytes_of(output) for output in self.outputs)
        return data + ENTRY_BYTES + TENSOR_BYTES * len(self.outputs)


def _bytes_of(output: Tensor) -> int:
    return len(output.array) if output.is_raw else int(output.array.nbytes)


class Entry(NamedTuple):
    """One response that is kept, until when (None: as long as there is room) and for whom."""

    kept: Kept
    size: int
    expires_ns: int | None
    owner: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The state of a cache, and what it did until now."""

    entries: int
    used_bytes: int
    limit_bytes: int
    evictions: int
    expiries: int


class ResponseStore:
    """The least recently used leave first; none outlives `ttl_ns`, and all together never take
    more than `limit_bytes`.
    """

    def __init__(self, limit_bytes: int, ttl_ns: int | None = None) -> None:
        if limit_bytes <= 0:
            raise InvalidArgument(f"a cache of {limit_bytes} bytes, expected more than 0")
        if ttl_ns is not None and ttl_ns <= 0:
            raise InvalidArgument(f"a time to live of {ttl_ns} ns, expected more than 0")
        self.limit_bytes = limit_bytes
        self._ttl_ns = ttl_ns
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        # The keys of each owner, so that one can be forgotten without a look at all the others.
        self._owned: dict[int, set[bytes]] = {}
        self._used = 0
        self._evictions = 0
        self._expiries = 0

    def get(self, key: bytes, now: int) -> Kept | None:
        """What is kept under the key; it counts as used now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_ns is not None and entry.expires_ns <= now:
            self._drop(key)
            self._expiries += 1
            return None
        self._entries.move_to_end(key)
        return entry.kept

    def put(self, key: bytes, kept: Kept, owner: int, now: int) -> bool:
        """Keep a response, in place of whatever has to go for it; False if it never fits."""
        size = kept.size
        if key in self._entries:
            self._drop(key)
        if size > self.limit_bytes:
            return False
        while self._used + size > self.limit_bytes:
            self._drop(next(iter(self._entries)))
            self._evictions += 1
        expires_ns = None if self._ttl_ns is None else now + self._ttl_ns
        self._entries[key] = Entry(kept, size, expires_ns, owner)
        self._owned.setdefault(owner, set()).add(key)
        self._used += size
        return True

    def forget(self, owner: int, most: int = FORGET_AT_ONCE) -> bool:
        """Drop so many of an owner's entries; whether it has any left."""
        for key in list(islice(self._owned.get(owner, ()), most)):
            self._drop(key)
        return owner in self._owned

    def stats(self) -> CacheStats:
        """How full it is."""
        return CacheStats(
            len(self._entries), self._used, self.limit_bytes, self._evictions, self._expiries
        )

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        self._used -= entry.size
        keys = self._owned[entry.owner]
        keys.discard(key)
        if not keys:
            del self._owned[entry.owner]

    def __repr__(self) -> str:
        return (
            f"<ResponseStore {len(self._entries)} entries, {self._used}/{self.limit_bytes} bytes>"
        )


class ResponseCache:
    """The cache of a server, shared by its models; every method may be called from any thread."""

    def __init__(self, limit_bytes: int, ttl_ns: int | None = None) -> None:
        self._store = ResponseStore(limit_bytes, ttl_ns)
        self._lock = threading.Lock()
        self._owners = count(1)

    @property
    def limit_bytes(self) -> int:
        """What it may take; nothing larger is ever kept."""
        return self._store.limit_bytes

    def new_owner(self) -> int:
        """A number for one load of one version: what another load has kept is not for it."""
        return next(self._owners)

    def get(self, key: bytes, now: int) -> Kept | None:
        """As the store's."""
        with self._lock:
            return self._store.get(key, now)

    def put(self, key: bytes, kept: Kept, owner: int, now: int) -> bool:
        """As the store's."""
        with self._lock:
            return self._store.put(key, kept, owner, now)

    def forget(self, owner: int) -> None:
        """Drop all that was kept for an owner, some at a time: others look things up meanwhile."""
        left = True
        while left:
            with self._lock:
                left = self._store.forget(owner)

    def stats(self) -> CacheStats:
        """How full it is."""
        with self._lock:
            return self._store.stats()

    def families(self) -> list[Family]:
        """What a scrape tells of the cache as a whole."""
        stats = self.stats()
        rows: tuple[tuple[str, Kind, str, int], ...] = (
            ("bytes", "gauge", "Bytes that the response cache holds", stats.used_bytes),
            ("limit_bytes", "gauge", "Bytes that it may hold", stats.limit_bytes),
            ("entries", "gauge", "Responses that it holds", stats.entries),
            ("evictions_total", "counter", "Responses that made room", stats.evictions),
            ("expiries_total", "counter", "Responses found too old", stats.expiries),
        )
        return [
            Family(f"penstock_response_cache_{name}", kind, text, (Sample(value, {}),))
            for name, kind, text, value in rows
        ]

    def __repr__(self) -> str:
        return f"<ResponseCache {self._store!r}>"
