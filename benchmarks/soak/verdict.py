"""Whether memory is flat, and whether a server is as it was before. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Point = tuple[float, float]
"""Seconds since the start, MB."""

WARM_S = 300.0
LEAST_S = 300.0
"""Of points behind the warm-up, below which memory is not judged."""
MOST_MB_AN_HOUR = 10.0
MOST_GROWTH = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a server; `at_s` since the start, `calls` and `wrong` as the clients count."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    tasks: int
    connections: int
    streams: int
    inflight: int
    inflight_bytes: int
    pending: int
    cpu_s: float
    calls: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """How resident memory went after the warm-up; `flat` is None when that was too short."""

    mb_an_hour: float
    growth: float
    flat: bool | None

    def __str__(self) -> str:
        word = {None: "too short to tell", True: "flat", False: "NOT FLAT"}[self.flat]
        return f"{self.mb_an_hour:+.1f} MB/h, {self.growth:+.1%}: {word}"


def memory(points: Sequence[Point], warm_s: float = WARM_S) -> Memory:
    """The verdict over the points after the warm-up (all, if that leaves less than two)."""
    settled = [point for point in points if point[0] >= warm_s]
    long_enough = len(settled) > 1 and settled[-1][0] - settled[0][0] >= LEAST_S
    settled = settled if len(settled) > 1 else list(points)
    mb_an_hour, grown = slope(settled) * 3600, growth(settled)
    flat = mb_an_hour < MOST_MB_AN_HOUR and grown < MOST_GROWTH
    return Memory(mb_an_hour, grown, flat if long_enough else None)


def slope(points: Sequence[Point]) -> float:
    """MB a second: the median of the slopes between all pairs, which single peaks do not move."""
    found = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for i, earlier in enumerate(points)
        for later in points[i + 1 :]
        if later[0] > earlier[0]
    ]
    return median(found) if found else 0.0


def growth(points: Sequence[Point]) -> float:
    """The share by which the last quarter lies above the first, each by its median."""
    if not points:
        return 0.0
    part = max(len(points) // 4, 1)
    first = median(mb for _, mb in points[:part])
    last = median(mb for _, mb in points[-part:])
    return last / first - 1 if first else 0.0


def traces(before: Sample, after: Sample) -> list[str]:
    """What is left of a load that has ended: nothing, if all is well."""
    found = [
        f"{name}: {value}, expected 0"
        for name, value in (
            ("open streams", after.streams),
            ("open connections", after.connections),
            ("calls in flight", after.inflight),
            ("bytes in flight", after.inflight_bytes),
            ("requests in queues", after.pending),
        )
        if value
    ]
    pairs = (
        ("descriptors", before.descriptors, after.descriptors),
        ("threads", before.threads, after.threads),
        ("tasks", before.tasks, after.tasks),
    )
    found += [f"{name}: {end}, before {start}" for name, start, end in pairs if end > start]
    return found
