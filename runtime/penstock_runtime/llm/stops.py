"""Where a growing text ends: at the first stop string that is complete.

What may yet become one is held back, and no more than that. Each character costs a step for each
stop string (Knuth, Morris, Pratt), however the text comes in pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """Text that may be given away, and the stop string that ended it, if one did."""

    text: str
    stop: str | None = None


class StopMatcher:
    """Looks for stop strings in a text that comes in pieces. Of several the one that ends first
    counts, of those that end together the longest, whatever their order.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._include = include
        self._borders = [_borders(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._held = ""

    @property
    def held(self) -> str:
        """Text that may be the beginning of a stop string."""
        return self._held

    def push(self, text: str, counts: bool = True) -> StopMatch:
        """Go on by this text. A stop string that it completes ends the text, unless it does not
        count; nothing may follow an end.
        """
        if not self._held and self._firsts.isdisjoint(text):
            return StopMatch(text)
        for place, character in enumerate(text):
            stop = self._step(character)
            if stop is not None and counts:
                return self._end(stop, text[: place + 1])
        whole = self._held + text
        length = len(whole) - max(self._matched)
        self._held = whole[length:]
        return StopMatch(whole[:length])

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stops)
        return held

    def _step(self, character: str) -> str | None:
        """Go on by one character; the longest stop string that is complete with it."""
        found = None
        for index, stop in enumerate(self._stops):
            borders, matched = self._borders[index], self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                found = found or stop
                matched = borders[-1]
            self._matched[index] = matched
        return found

    def _end(self, stop: str, text: str) -> StopMatch:
        whole = self._held + text
        self._held = ""
        return StopMatch(whole if self._include else whole[: len(whole) - len(stop)], stop)


def _borders(stop: str) -> list[int]:
    """For each prefix the length of the longest shorter one that it ends with."""
    borders, length = [0], 0
    for character in stop[1:]:
        while length and stop[length] != character:
            length = borders[length - 1]
        length += stop[length] == character
        borders.append(length)
    return borders
