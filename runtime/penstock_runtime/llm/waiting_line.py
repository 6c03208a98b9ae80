"""A line of sequences that wait: by level, then by number; one may leave it from anywhere."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from penstock_runtime.llm.sequence import Sequence

# (level, number of its arrival, the sequence): the number makes every entry comparable.
Entry = tuple[int, int, Sequence]


class WaitingLine:
    """Sequences in the order in which they should begin."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def put(self, level: int, number: int, sequence: Sequence) -> None:
        """Let a sequence stand at its place."""
        insort(self._entries, (level, number, sequence))

    def remove(self, level: int, number: int) -> None:
        """Take out the sequence that stands at this place."""
        at = bisect_left(self._entries, (level, number), key=_place)
        if at == len(self._entries) or _place(self._entries[at]) != (level, number):
            raise AssertionError(f"nobody waits at level {level} with number {number}")
        del self._entries[at]

    def at(self, index: int) -> Sequence | None:
        """Who stands there, counted from the front."""
        return self._entries[index][2] if index < len(self._entries) else None

    def before(self, level: int) -> Iterator[Sequence]:
        """Those who stand before one that comes now, at this level."""
        for entry in self._entries:
            if entry[0] > level:
                return
            yield entry[2]

    def candidates(self) -> Iterator[Sequence]:
        """From the front to the end; whoever is removed when it was given is not passed over."""
        entries, index = self._entries, 0
        while index < len(entries):
            entry = entries[index]
            yield entry[2]
            if index < len(entries) and entries[index] is entry:
                index += 1

    def __len__(self) -> int:
        return len(self._entries)


def _place(entry: Entry) -> tuple[int, int]:
    return entry[0], entry[1]
