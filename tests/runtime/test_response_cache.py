"""Laws of the store of responses: bounded, forgetful in the right order, and never wrong."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.response_cache import (
    ENTRY_BYTES,
    TENSOR_BYTES,
    Kept,
    ResponseCache,
    ResponseStore,
)
from penstock_runtime.tensor import Tensor

FIXED = ENTRY_BYTES + TENSOR_BYTES
LIMIT, TTL = 4 * FIXED + 400, 50
KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])


def kept(size: int, value: int = 0) -> Kept:
    """A response with so many bytes of data."""
    array = np.full(size, value, np.uint8)
    return Kept((Tensor("Y", DataType.UINT8, (size,), array),))


class Store(RuleBasedStateMachine):
    """Against a model that keeps everything and says what must have gone."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(LIMIT, TTL)
        self.now = 0
        self.serial = 0
        # By key, in the order of use: when it was put, the response, and its owner.
        self.model: OrderedDict[bytes, tuple[int, Kept, int]] = OrderedDict()

    def used(self) -> int:
        return sum(response.size for _, response, _ in self.model.values())

    @rule(step=st.integers(0, 30))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(key=KEYS, size=st.integers(0, LIMIT), owner=st.integers(0, 2))
    def put(self, key: bytes, size: int, owner: int) -> None:
        self.serial += 1
        response = kept(size, self.serial % 256)
        self.model.pop(key, None)
        fits = response.size <= LIMIT
        if fits:
            while self.used() + response.size > LIMIT:
                self.model.popitem(last=False)
            self.model[key] = (self.now, response, owner)

        assert self.store.put(key, response, owner, self.now) is fits

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        entry = self.model.get(key)
        if entry is not None and self.now - entry[0] >= TTL:
            entry = None
            del self.model[key]
        if entry is not None:
            self.model.move_to_end(key)

        assert self.store.get(key, self.now) is (entry and entry[1])

    @rule(owner=st.integers(0, 2), most=st.integers(1, 3))
    def forget(self, owner: int, most: int) -> None:
        while self.store.forget(owner, most):
            pass
        for key in [key for key, entry in self.model.items() if entry[2] == owner]:
            del self.model[key]

    @invariant()
    def bounded_and_equal_to_the_model(self) -> None:
        stats = self.store.stats()

        assert stats.used_bytes <= LIMIT
        assert (stats.entries, stats.used_bytes) == (len(self.model), self.used())


TestStore = Store.TestCase


@given(size=st.integers(0, 5000))
def test_what_is_larger_than_the_cache_is_never_kept_and_drives_nothing_out(size: int) -> None:
    """One huge response must not empty the cache for nothing."""
    store = ResponseStore(FIXED + 100)
    store.put(b"small", kept(10), 0, 0)

    fits = store.put(b"large", kept(size), 0, 0)

    assert fits is (size <= 100)
    assert (store.get(b"small", 0) is None) is fits


def test_without_a_time_to_live_nothing_grows_old() -> None:
    """Only room counts then."""
    store = ResponseStore(FIXED)
    store.put(b"a", kept(0), 0, 0)

    assert store.get(b"a", 2**62) is not None


def test_the_owner_of_one_load_is_never_that_of_another() -> None:
    """A reload forgets because its keys differ."""
    cache = ResponseCache(FIXED)

    assert len({cache.new_owner() for _ in range(100)}) == 100


def test_forgetting_an_owner_leaves_the_others_alone() -> None:
    """In as many steps as it takes."""
    cache = ResponseCache(5000 * FIXED)
    for number in range(4000):
        cache.put(number.to_bytes(4, "big"), kept(0), number % 2, 0)

    cache.forget(0)

    assert cache.stats().entries == 2000
    assert cache.get((1).to_bytes(4, "big"), 0) is not None
    assert cache.get((2).to_bytes(4, "big"), 0) is None


@pytest.mark.parametrize(("limit", "ttl"), [(0, None), (-1, None), (1, 0), (1, -5)])
def test_a_cache_of_nothing_is_refused(limit: int, ttl: int | None) -> None:
    """Whoever wants none makes none."""
    with pytest.raises(InvalidArgument, match="expected more than 0"):
        ResponseCache(limit, ttl)


def test_a_scrape_tells_how_full_the_cache_is() -> None:
    """An operator sees whether the size is right."""
    cache = ResponseCache(2 * FIXED, ttl_ns=10)
    for key in (b"a", b"b", b"c"):
        cache.put(key, kept(0), 0, 0)
    cache.get(b"c", 10)

    told = {family.name: family.samples[0].value for family in cache.families()}

    assert told == {
        "penstock_response_cache_bytes": FIXED,
        "penstock_response_cache_limit_bytes": 2 * FIXED,
        "penstock_response_cache_entries": 1,
        "penstock_response_cache_evictions_total": 1,
        "penstock_response_cache_expiries_total": 1,
    }
