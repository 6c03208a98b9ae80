"""The one appointment that somebody has with the timer: at the earliest time that is needed."""

from collections.abc import Callable

CallAt = Callable[[int, Callable[[], None]], None]


class Alarm:
    """Is set for the earliest of the times that were needed. `need` and `rung` belong under the
    lock of whoever has it, `set` and what rings outside.
    """

    __slots__ = ("_at_ns", "_call_at")

    def __init__(self, call_at: CallAt) -> None:
        self._call_at = call_at
        self._at_ns: int | None = None

    def need(self, when_ns: int | None) -> int | None:
        """The time to `set`; None where nothing is needed, or an earlier one is set already."""
        if when_ns is None or (self._at_ns is not None and self._at_ns <= when_ns):
            return None
        self._at_ns = when_ns
        return when_ns

    def set(self, when_ns: int | None, ring: Callable[[], None]) -> None:
        """Have this called at a time that `need` gave."""
        if when_ns is not None:
            self._call_at(when_ns, ring)

    def rung(self) -> None:
        """It has rung: the next time that is needed is to be set again."""
        self._at_ns = None
