"""What a load loop needs of whatever carries its calls."""

from collections.abc import Sequence
from typing import Protocol

from penstock.bench.meter import Meter

NOW = 0
"""A due time that means: when the call is written."""


class Carrier(Protocol):
    """Calls in flight to one server; tells its meter what becomes of each."""

    @property
    def meter(self) -> Meter:
        """What the calls are told to."""

    @property
    def in_flight(self) -> int:
        """Calls that were launched and have not ended."""

    @property
    def room(self) -> int:
        """How many more calls may be launched now."""

    def launch(self, dues: Sequence[int]) -> None:
        """Begin a call for each of these due times (ns, or NOW); at most `room` of them.

        They are written together by the next `poll`. A call that cannot even begin fails at once.
        """

    def poll(self, until: int) -> None:
        """Write what was launched, then wait for something to happen, but not beyond `until`."""

    def abandon(self) -> None:
        """End all calls in flight; each fails with DEADLINE_EXCEEDED."""

    def close(self) -> None:
        """Let go of all connections."""
