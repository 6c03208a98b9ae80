"""Laws of the pool of blocks."""

import pytest

from penstock_runtime.errors import ResourceExhausted
from penstock_runtime.llm.block_pool import BlockPool, PoolStats


def test_what_is_taken_is_held_and_comes_back() -> None:
    """A pool gives each block to one holder and is full again when all came back."""
    pool = BlockPool(4, 16)

    first, second = pool.allocate(3), pool.allocate(1)

    assert sorted(first + second) == [0, 1, 2, 3]
    pool.check([first, second])
    pool.release(first)
    pool.release(second)
    assert pool.free == 4
    pool.check([])


def test_more_than_is_free_is_refused_with_both_numbers() -> None:
    """Nothing is taken where not all can be."""
    pool = BlockPool(4, 16)
    pool.allocate(3)

    with pytest.raises(ResourceExhausted, match=r"2 blocks .* needed and 1 of 4 free"):
        pool.allocate(2)

    assert pool.free == 1


def test_a_block_that_came_back_is_found_until_it_is_taken_again() -> None:
    """Its hash stays on it for as long as nobody needs the room."""
    pool = BlockPool(2, 16)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], b"a")
    pool.publish(blocks[1], b"b")
    pool.release(blocks)

    pool.allocate(1)

    assert pool.find(b"a") == blocks[0]
    assert pool.find(b"b") is None
    assert pool.stats() == PoolStats(n_blocks=2, free=1, cached=1, evictions=1)


def test_the_tail_of_what_came_back_is_taken_first() -> None:
    """The beginning of a prefix outlives its end, and old prefixes go before new ones."""
    pool = BlockPool(4, 16)
    old, new = pool.allocate(2), pool.allocate(2)
    for block in old + new:
        pool.publish(block, bytes([block]))
    pool.release(old)
    pool.release(new)

    taken = pool.allocate(4)

    assert taken == [old[1], old[0], new[1], new[0]]


def test_blocks_that_hold_nothing_known_are_taken_before_a_prefix() -> None:
    """No prefix is lost while there is a block that holds none."""
    pool = BlockPool(3, 16)
    prefix, other = pool.allocate(1), pool.allocate(2)
    pool.publish(prefix[0], b"a")
    pool.release(prefix)
    pool.release(other)

    pool.allocate(2)

    assert pool.find(b"a") == prefix[0]


def test_a_found_block_is_held_by_all_who_share_it() -> None:
    """It is free when the last of them gave it back."""
    pool = BlockPool(2, 16)
    blocks = pool.allocate(1)
    pool.publish(blocks[0], b"a")
    pool.release(blocks)

    pool.share(blocks)
    pool.share(blocks)
    pool.release(blocks)

    pool.check([blocks])
    assert pool.free == 1


def test_of_two_blocks_with_the_same_tokens_the_first_is_found() -> None:
    """The second is a block without a hash, and of the first to be taken again."""
    pool = BlockPool(3, 16)
    first, second = pool.allocate(1), pool.allocate(1)
    pool.publish(first[0], b"a")
    pool.publish(second[0], b"a")
    pool.release(first)
    pool.release(second)

    taken = pool.allocate(2)

    assert pool.find(b"a") == first[0]
    assert first[0] not in taken


def test_a_pool_without_caching_finds_nothing() -> None:
    """Nor does one whose cache was cleared."""
    plain, cleared = BlockPool(2, 16, caching=False), BlockPool(2, 16)
    for pool in (plain, cleared):
        pool.publish(pool.allocate(1)[0], b"a")

    cleared.clear_cache()

    assert plain.find(b"a") is None
    assert cleared.find(b"a") is None
    cleared.check([[0]])


def test_a_pool_says_how_full_it_is() -> None:
    """Capacity in tokens, and its state in words."""
    pool = BlockPool(3, 16)
    pool.allocate(1)

    assert pool.capacity == 48
    assert pool.blocks_for(17) == 2
    assert repr(pool) == "<BlockPool 3 x 16 tokens, 2 free, 0 cached>"
