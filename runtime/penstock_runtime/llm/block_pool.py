"""The blocks of a paged KV cache: how many hold each, which are free, which hold a known prefix.

Pure: it knows the numbers of blocks and nothing of what lies in them. A block that is given back
keeps its hash until it is taken again, so a prefix can be found for as long as nobody needs its
room.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock_runtime.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The state of a pool: `free` blocks are held by nobody, `cached` ones can be found by their
    hash (held or not), `evictions` counts those that lost theirs to make room.
    """

    n_blocks: int
    free: int
    cached: int
    evictions: int


class BlockPool:
    """`n_blocks` blocks of `block_size` tokens each; without `caching`, nothing is ever found."""

    __slots__ = (
        "_by_hash",
        "_free",
        "_hashes",
        "block_size",
        "caching",
        "evictions",
        "n_blocks",
        "ref",
    )

    def __init__(self, n_blocks: int, block_size: int, caching: bool = True) -> None:
        self.n_blocks = n_blocks
        self.block_size = block_size
        self.caching = caching
        self.ref = [0] * n_blocks
        self.evictions = 0
        self._hashes: list[bytes | None] = [None] * n_blocks
        self._by_hash: dict[bytes, int] = {}
        # The first goes first: those without a hash, then the one that was let go longest ago.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))

    @property
    def capacity(self) -> int:
        """How many tokens fit."""
        return self.n_blocks * self.block_size

    @property
    def free(self) -> int:
        """How many blocks nobody holds."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens fill or begin."""
        return -(-tokens // self.block_size)

    # -- taking and giving back ------------------------------------------------------------------

    def allocate(self, count: int) -> list[int]:
        """Take so many blocks, each for one holder who may write it."""
        free = self._free
        if count > len(free):
            raise ResourceExhausted(
                f"{count} blocks of the KV cache are needed and {len(free)} of {self.n_blocks} free"
            )
        taken = [free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self.ref[block] = 1
            if self._hashes[block] is not None:
                self._forget(block)
                self.evictions += 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One more holder for blocks that were found; none of their holders may write them."""
        ref = self.ref
        for block in blocks:
            if not ref[block]:
                del self._free[block]
            ref[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for the blocks of a sequence, given in their order.

        The tail is the first to be taken again: a prefix is of use without its tail, and not the
        other way round.
        """
        ref, free = self.ref, self._free
        for block in reversed(blocks):
            ref[block] -= 1
            if ref[block]:
                continue
            free[block] = None
            if self._hashes[block] is None:
                free.move_to_end(block, last=False)

    # -- prefixes --------------------------------------------------------------------------------

    def find(self, key: bytes) -> int | None:
        """The block that holds what this hash stands for."""
        return self._by_hash.get(key)

    def publish(self, block: int, key: bytes) -> None:
        """A block is full and will not be written again until it has been given back.

        Where another holds the same already, that one goes on being found.
        """
        if self.caching and key not in self._by_hash:
            self._by_hash[key] = block
            self._hashes[block] = key

    def clear_cache(self) -> None:
        """Nothing is found any more: what the blocks hold was computed with other weights. To be
        called when nothing runs.
        """
        for block in self._by_hash.values():
            self._hashes[block] = None
        self._by_hash.clear()

    def is_published(self, block: int) -> bool:
        """Whether this block is found by its hash."""
        return self._hashes[block] is not None

    def _forget(self, block: int) -> None:
        key, self._hashes[block] = self._hashes[block], None
        if key is not None:
            del self._by_hash[key]

    # -- what others ask -------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """How full it is."""
        return PoolStats(self.n_blocks, len(self._free), len(self._by_hash), self.evictions)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that these tables are all that is held, and that only full blocks are shared."""
        held = [0] * self.n_blocks
        for table in tables:
            assert len(set(table)) == len(table), f"a block stands twice in the table {table}"
            for block in table:
                held[block] += 1
        assert held == self.ref, "references differ from what the tables hold"
        free = {block for block, count in enumerate(held) if not count}
        assert set(self._free) == free, "the free list differs from the blocks that nobody holds"
        for key, block in self._by_hash.items():
            assert self._hashes[block] == key, f"block {block} is found by a hash it does not have"
        assert len(self._by_hash) == sum(key is not None for key in self._hashes)

    def __repr__(self) -> str:
        return (
            f"<BlockPool {self.n_blocks} x {self.block_size} tokens, {len(self._free)} free,"
            f" {len(self._by_hash)} cached>"
        )
