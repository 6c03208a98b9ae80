"""When a process looks at its engine, and when it tells the server what it saw. Pure."""

# How often an engine is told of that goes on and on.
EVERY_S = 1.0
# How long after an answer has ended it is looked at: of many that end together one is told.
SOON_S = 0.05


class Pace:
    """`pause_s` is how long to wait for news before the next look: short after there was some, for
    an engine settles a little later than its answers end, and then longer and longer.
    """

    def __init__(self) -> None:
        self.pause_s = EVERY_S
        self._told = float("-inf")

    def waited(self, news: bool) -> None:
        """There was news; or none in all of `pause_s`."""
        self.pause_s = SOON_S if news else min(2 * self.pause_s, EVERY_S)

    def is_due(self, now: float, idle: bool) -> bool:
        """Whether what is new is to be told: always of an engine that has nothing in hand, for then
        it is exact, and else once in EVERY_S.
        """
        return idle or now - self._told >= EVERY_S

    def told(self, now: float, idle: bool) -> None:
        """It was told; what has just come to rest may have a little more to say."""
        self._told = now
        if idle:
            self.pause_s = SOON_S

    def __repr__(self) -> str:
        return f"<Pace, the next look in {self.pause_s:g} s>"
