"""When a process that ended is started again. Pure: the time is an argument, in seconds."""

FIRST_S = 0.1
LONGEST_S = 30.0
# Who lived so long is not taken for one that dies of itself.
WELL_S = 10.0


class Backoff:
    """At once, then after 0.1 s, 0.2 s, 0.4 s and so on up to 30 s, until it lives for 10 s.

    Starts that fail are counted as well: after `most` of them in a row there is no hope.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._deaths = 0
        self._failed_starts = 0
        self._since: float | None = None

    def started(self, now: float) -> None:
        """It lives."""
        self._since = now
        self._failed_starts = 0

    def failed(self) -> None:
        """It did not get to live."""
        self._failed_starts += 1
        self._deaths += 1

    def died(self, now: float) -> None:
        """It lived until now."""
        if self._since is not None and now - self._since >= WELL_S:
            self._deaths = 0
        self._since = None
        self._deaths += 1

    @property
    def hopeless(self) -> bool:
        """Whether too many starts in a row have failed."""
        return self._failed_starts >= self._most

    @property
    def delay_s(self) -> float:
        """How long to wait before the next start."""
        if self._deaths <= 1:
            return 0.0
        # No power is taken of a number that nobody bounds.
        return min(FIRST_S * 2.0 ** min(self._deaths - 2, 16), LONGEST_S)

    def __repr__(self) -> str:
        return f"<Backoff {self._deaths} deaths, {self._failed_starts} failed starts>"
