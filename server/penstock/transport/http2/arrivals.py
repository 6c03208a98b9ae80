"""The memory of large messages that are being received, or wait to be read, on all connections."""


class Arrivals:
    """Bytes of such messages, and their limit. Lives on one loop."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Count a message in; False, and it is not, if that would be too much.

        One that is larger than the limit may come alone: it could never come otherwise.
        """
        if self.used and self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Count a message out: it was read, or never will be."""
        self.used -= size

    @property
    def scarce(self) -> bool:
        """Whether so much is taken that who came next may be refused."""
        return self.used * 2 > self.limit

    def __repr__(self) -> str:
        return f"<Arrivals {self.used} of {self.limit} bytes>"
