"""Which bytes of a segment are free. Pure: it knows numbers and no memory."""

from bisect import insort

# Arrays want to lie at addresses that vector instructions like.
ALIGNMENT = 64


def rounded(size: int) -> int:
    """A size as it is handed out."""
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


class FreeList:
    """Hands out ranges of `size` bytes, first fit; free neighbours become one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = [(0, size)]
        self._taken: dict[int, int] = {}

    def take(self, size: int) -> int | None:
        """Where so many bytes are, a multiple of ALIGNMENT; None if there are none in a row."""
        wanted = rounded(size)
        for place, (start, length) in enumerate(self._free):
            if length >= wanted:
                rest = length - wanted
                self._free[place : place + 1] = [(start + wanted, rest)] if rest else []
                self._taken[start] = wanted
                return start
        return None

    def give(self, start: int) -> bool:
        """What was taken there is free again; False if nothing was."""
        size = self._taken.pop(start, None)
        if size is None:
            return False
        insort(self._free, (start, size))
        place = self._free.index((start, size))
        self._join(place)
        if place:
            self._join(place - 1)
        return True

    def _join(self, place: int) -> None:
        """One range of this one and the next, if they touch."""
        if place + 1 == len(self._free):
            return
        (start, length), (after, more) = self._free[place : place + 2]
        if start + length == after:
            self._free[place : place + 2] = [(start, length + more)]

    @property
    def empty(self) -> bool:
        """Whether nothing is taken."""
        return not self._taken

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return sum(self._taken.values())

    def __repr__(self) -> str:
        return f"<FreeList {self.used} of {self.size} bytes, {len(self._free)} gaps>"
