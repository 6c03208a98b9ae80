"""Whether a sequence that waits has room beside those that run, and who would have to give way.

Pure. A sequence begins only where all of its tokens fit, and some blocks are left for the others
to grow into: else it would soon be preempted.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Items

from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.sequence import Sequence


class Room:
    """The slots of an engine, and the free blocks of its pool."""

    __slots__ = ("_pool", "_watermark", "slots")

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self._pool = pool
        self._watermark = int(limits.watermark * pool.n_blocks)
        self.slots = limits.slots

    def fits(self, sequence: Sequence, found: Items[int], running: int) -> bool:
        """Whether it may begin beside so many, with the blocks that were found for it."""
        lacking = self._lacking(sequence, found) + self._margin(sequence, running)
        return running < self.slots and lacking <= self._pool.free

    def victims(
        self, sequence: Sequence, found: Items[int], running: int, worse: Iterable[Sequence]
    ) -> list[Sequence] | None:
        """The fewest of those who are worse, the worst first, without whom it fits beside the rest
        of so many; None where it would not even if all gave way.
        """
        victims: list[Sequence] = []
        lacking, ref = self._lacking(sequence, found), self._pool.ref
        free, kept, gone = self._pool.free, set(found), Counter[int]()
        for victim in worse:
            victims.append(victim)
            gone.update(victim.blocks)
            free += sum(gone[block] == ref[block] for block in victim.blocks if block not in kept)
            left = running - len(victims)
            if left < self.slots and lacking + self._margin(sequence, left) <= free:
                return victims
        return None

    def _lacking(self, sequence: Sequence, found: Items[int]) -> int:
        """How many of the free blocks it would take; found ones may be among them."""
        ref = self._pool.ref
        whole = self._pool.blocks_for(len(sequence.tokens))
        return whole - len(found) + sum(not ref[block] for block in found)

    def _margin(self, sequence: Sequence, running: int) -> int:
        """How many blocks are left for so many others; more by one who was in their way before."""
        if not running:
            return 0
        return self._watermark + (running if sequence.preemptions else 0)
