"""Prefixes that have been computed before: found block by block, through a chain of hashes.

The hash of a block is made of that of the block before it and of its own tokens; the chain begins
with the caller's salt and the adapter, so whoever has another of either finds nothing.
"""

from array import array
from collections.abc import Sequence as Items
from hashlib import blake2b

from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.sequence import Sequence

_DIGEST = 32


def chain_root(salt: bytes, adapter: str) -> bytes:
    """What the chain of hashes of a caller and an adapter begins with."""
    name = adapter.encode()
    # The length keeps (b"ab", "c") apart from (b"a", "bc").
    return blake2b(len(salt).to_bytes(8, "little") + salt + name, digest_size=_DIGEST).digest()


def chain_hashes(parent: bytes, tokens: Items[int], block_size: int) -> list[bytes]:
    """The hashes of the full blocks that these tokens make after a block with this hash."""
    raw, width = array("q", tokens).tobytes(), 8 * block_size
    hashes: list[bytes] = []
    for begin in range(0, len(raw) - width + 1, width):
        parent = blake2b(parent + raw[begin : begin + width], digest_size=_DIGEST).digest()
        hashes.append(parent)
    return hashes


class PrefixCache:
    """Which blocks of a pool hold the beginning of a sequence."""

    __slots__ = ("_chains", "_coming", "_pool")

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        # A chain is kept from the first look-up to the end: who waits is looked up at every step.
        self._chains: dict[Sequence, list[bytes]] = {}
        self._coming: dict[bytes, Sequence] = {}

    def match(self, sequence: Sequence) -> list[int] | None:
        """The blocks that hold its beginning, at least one token of which is left to compute.

        None where the next block is just being computed for another sequence: to wait costs less
        than to compute it twice. That is how the siblings of one prompt share it.
        """
        if not self._pool.caching or not reads_cache(sequence):
            return []
        usable = (len(sequence.tokens) - 1) // self._pool.block_size
        found: list[int] = []
        for key in self._chain(sequence)[:usable]:
            block = self._pool.find(key)
            if block is None:
                return None if key in self._coming else found
            found.append(block)
        return found

    def begin(self, sequence: Sequence, found: int) -> None:
        """A sequence begins to run, with so many blocks that were found; the rest is coming."""
        if not self._pool.caching:
            return
        chain = self._chain(sequence)
        sequence.hashes = chain[:found]
        for key in chain[found:]:
            self._coming.setdefault(key, sequence)

    def publish(self, sequence: Sequence) -> None:
        """Let the blocks be found that have become full with what is computed by now."""
        if not self._pool.caching:
            return
        hashes, chain = sequence.hashes, self._chain(sequence)
        for at in range(len(hashes), sequence.n_computed // self._pool.block_size):
            key = chain[at]
            self._pool.publish(sequence.blocks[at], key)
            hashes.append(key)
            if self._coming.get(key) is sequence:
                del self._coming[key]

    def stop(self, sequence: Sequence) -> None:
        """A sequence lost its blocks: what it has not computed is not coming any more."""
        for key in self._chains.get(sequence, [])[len(sequence.hashes) :]:
            if self._coming.get(key) is sequence:
                del self._coming[key]
        sequence.hashes = []

    def forget(self, sequence: Sequence) -> None:
        """A sequence ended."""
        self.stop(sequence)
        self._chains.pop(sequence, None)

    def check(self) -> None:
        """Assert that nobody waits for a block that nobody computes."""
        for key, sequence in self._coming.items():
            assert sequence.blocks, f"{sequence!r} has no blocks, and one of its blocks is awaited"
            assert key not in sequence.hashes, f"{sequence!r} has computed a block that is awaited"

    def _chain(self, sequence: Sequence) -> list[bytes]:
        """The hashes of all full blocks of its tokens, computed or not."""
        chain = self._chains.get(sequence)
        if chain is None:
            chain = self._chains[sequence] = []
        size, tokens, begin = self._pool.block_size, sequence.tokens, len(chain)
        if (begin + 1) * size <= len(tokens):
            parent = chain[-1] if chain else chain_root(sequence.salt, sequence.adapter)
            chain += chain_hashes(parent, tokens[begin * size :], size)
        return chain


def reads_cache(sequence: Sequence) -> bool:
    """Whether what was computed before is of use: not where the prompt's own logits are wanted."""
    params = sequence.params
    if params.skip_reading_prefix_cache:
        return False
    return params.prompt_logprobs is None or len(sequence.tokens) > sequence.n_prompt
