"""How large a batch should be, and how long it may wait for company, to keep a goal of latency.

Pure: out of what is known of the model, how much arrives, and the goal.
"""

from dataclasses import dataclass

from penstock_runtime.scheduling.latency_model import LatencyModel

# Arrivals come in bursts: capacity has to be above their mean.
HEADROOM = 1.25
# What the prediction does not see: hand-over, encoding, the next burst.
CAUTION = 0.8
# Sizes that are told beside a choice.
_TOLD = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Predicted:
    """One size of batch: how long it takes typically and at the 99th percentile (nanoseconds), and
    how many rows a second all instances could do with it.
    """

    rows: int
    typical_ns: float
    slow_ns: float
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why. `size`, `wait_ns` are in force; `limit` is the largest batch that
    keeps the goal; `p99_ns` is what a request is predicted to spend here; `keeps` is whether that
    keeps the goal.
    """

    size: int
    wait_ns: int
    limit: int
    goal_ns: int
    arriving: float
    p99_ns: float
    keeps: bool
    reason: str
    sizes: tuple[Predicted, ...] = ()


def first_choice(goal_ns: int, most: int) -> Choice:
    """Before anything is known: what is there at once, up to the most."""
    reason = "too few executions were seen: whatever waits is executed at once"
    return Choice(most, 0, most, goal_ns, 0.0, 0.0, True, reason)


def choose(
    model: LatencyModel, goal_ns: int, most: int, arriving: float, instances: int, longest_ns: int
) -> Choice:
    """The smallest size that keeps up with `arriving` rows a second and keeps the goal.

    `most` rows fit a batch; no wait is longer than `longest_ns` (0: no bound of its own).
    """
    if not model.knows:
        return first_choice(goal_ns, most)
    fitting = _fitting(model, goal_ns, most)
    size, keeps_up = _size(model, fitting or most, arriving, instances)
    only = model.only_rows
    if only and not keeps_up and only < most:
        return _try(model, min(2 * only, most), goal_ns, most, arriving, instances)
    wait_ns = _wait(model, size, goal_ns, arriving, instances, longest_ns) if fitting else 0
    p99_ns = wait_ns + model.typical_ns(size) / instances + model.slow_ns(size)
    return Choice(
        size,
        wait_ns,
        fitting or most,
        goal_ns,
        arriving,
        p99_ns,
        bool(fitting) and keeps_up and p99_ns <= goal_ns,
        _reason(model, goal_ns, fitting, size, keeps_up, arriving),
        _told(model, most, instances),
    )


def _try(
    model: LatencyModel, rows: int, goal_ns: int, most: int, arriving: float, instances: int
) -> Choice:
    """A size that was never seen, while that which was cannot do what arrives: without it a guess
    would keep itself from being proved wrong.
    """
    seen = f"only batches of {model.only_rows} were seen, and those do less than"
    return Choice(
        rows,
        0,
        rows,
        goal_ns,
        arriving,
        model.typical_ns(rows) / instances + model.slow_ns(rows),
        False,
        f"{seen} the {arriving:.0f} rows/s that arrive: {rows} rows are tried",
        _told(model, most, instances),
    )


def _told(model: LatencyModel, most: int, instances: int) -> tuple[Predicted, ...]:
    return tuple(_predicted(model, rows, instances) for rows in _TOLD if rows <= most)


def _candidates(most: int) -> list[int]:
    """The sizes that are looked at: all small ones, and of large ones every sixteenth part."""
    sizes, rows = [], 1
    while rows < most:
        sizes.append(rows)
        rows += max(rows // 16, 1)
    return [*sizes, most]


def _fitting(model: LatencyModel, goal_ns: int, most: int) -> int:
    """The largest batch that keeps the goal for who arrives just too late for the one before; 0 if
    there is none.
    """
    for rows in reversed(_candidates(most)):
        if model.typical_ns(rows) + model.slow_ns(rows) <= goal_ns:
            return rows
    return 0


def _size(model: LatencyModel, most: int, arriving: float, instances: int) -> tuple[int, bool]:
    """The smallest size that keeps up, or the one that does most; whether it keeps up."""
    best, most_rate = 1, 0.0
    for rows in _candidates(most):
        rate = rows_per_second(model, rows, instances)
        if rate >= arriving * HEADROOM:
            return rows, True
        # Larger batches that do hardly more only take longer.
        if rate > most_rate * 1.01:
            best, most_rate = rows, rate
    return best, most_rate >= arriving


def rows_per_second(model: LatencyModel, rows: int, instances: int) -> float:
    """What all instances do with batches of this size, one after the other."""
    typical_ns = model.typical_ns(rows)
    return instances * rows * 1e9 / typical_ns if typical_ns else float("inf")


def _wait(
    model: LatencyModel,
    size: int,
    goal_ns: int,
    arriving: float,
    instances: int,
    longest_ns: int,
) -> int:
    """As long as the missing rows take to arrive, if the goal leaves so much time."""
    if size == 1 or arriving <= 0:
        return 0
    spare_ns = goal_ns * CAUTION - model.typical_ns(size) / instances - model.slow_ns(size)
    wanted_ns = (size - 1) / arriving * 1e9
    bound_ns = min(spare_ns, longest_ns) if longest_ns else spare_ns
    return int(max(min(wanted_ns, bound_ns), 0))


def _predicted(model: LatencyModel, rows: int, instances: int) -> Predicted:
    rate = rows_per_second(model, rows, instances)
    return Predicted(rows, model.typical_ns(rows), model.slow_ns(rows), rate)


def _reason(
    model: LatencyModel, goal_ns: int, fitting: int, size: int, keeps_up: bool, arriving: float
) -> str:
    goal = f"{goal_ns / 1e6:g} ms"
    if not fitting:
        one = model.slow_ns(1) / 1e6
        return (
            f"the goal of {goal} cannot be kept: one row alone takes {one:.1f} ms at the 99th "
            f"percentile; batches of {size} {'keep up' if keeps_up else 'do most'} with "
            f"{arriving:.0f} rows/s"
        )
    takes = f"{model.slow_ns(size) / 1e6:.1f} ms at the 99th percentile"
    if not keeps_up:
        return (
            f"{arriving:.0f} rows/s arrive, more than batches within {goal} can do: batches of "
            f"{size} ({takes}) do most"
        )
    return (
        f"batches of {size} ({takes}) are the smallest that keep up with {arriving:.0f} rows/s; "
        f"{fitting} rows are the most that keep {goal}"
    )
