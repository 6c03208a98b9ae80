"""What was asked of a load and what it gave, before any figure is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.bench.histogram import Histogram
from penstock.bench.schedule import Kind

_NS = 1_000_000_000
_RISE = 0.05
_FEW = 10


@dataclass(frozen=True, slots=True)
class Level:
    """One load: so many calls in flight (closed loop), or so many a second (open loop)."""

    concurrency: int | None = None
    rate: float | None = None
    arrivals: Kind = "fixed"

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.concurrency} in flight"
        return f"{self.rate:,.10g} req/s"


@dataclass(slots=True)
class Failures:
    """Calls that ended with one status; `first` is the text of the first of them."""

    count: int
    first: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The calls of one window of `elapsed_ns`.

    The histograms hold ns: `latencies` one value for each call that succeeded, `lateness` how much
    later than intended each call was written (open loop), `first` the time to a stream's first
    response, `gaps` the times between responses that follow each other. `completed` counts the
    calls and `messages` the responses that came inside the window. `unsent` calls were due and
    never sent; `waiting` tells how many were due and not answered when the window began and ended.
    CPU times are seconds, None where they are not to be had.
    """

    level: Level
    elapsed_ns: int
    completed: int
    messages: int
    latencies: Histogram
    lateness: Histogram = field(default_factory=Histogram)
    first: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)
    errors: Mapping[str, Failures] = field(default_factory=dict)
    unsent: int = 0
    waiting_before: int = 0
    waiting_after: int = 0
    client_cpu_s: float = 0.0
    server_cpu_s: float | None = None

    @property
    def seconds(self) -> float:
        """Length of the window, above 0."""
        return max(self.elapsed_ns, 1) / _NS

    @property
    def calls_per_s(self) -> float:
        """Calls that succeeded a second."""
        return self.completed / self.seconds

    @property
    def failures(self) -> int:
        """Calls that failed."""
        return sum(each.count for each in self.errors.values())

    @property
    def kept(self) -> bool:
        """Whether the server went along with the rate of an open loop: every call was sent, and no
        more were waiting at the end than at the beginning, but for what chance explains.
        """
        if self.level.rate is None:
            return True
        rise = self.waiting_after - self.waiting_before
        return not self.unsent and rise <= max(_FEW, _RISE * self.level.rate * self.seconds)
