"""What joining the parts of a ragged batch costs, in microseconds, beside NumPy's own ways.

    python -m benchmarks.ragged_gather [--rounds 7]

`concatenate` joins parts of any shape flat (axis=None), `rows` joins as many elements in parts of
one shape, which is what a batch without ragged inputs takes; parts are read-only, as from the wire.
"""

import argparse
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock_kernels.ragged import AnyArray, gather_flat

CASES = ((8, 16), (64, 16), (8, 4096), (64, 4096), (16, 262_144))
# About so many elements are joined in one measurement.
WORK = 4_000_000


def parts_of(count: int, longest: int) -> list[AnyArray]:
    """FP32 parts of one row, of lengths from a half of the longest to all of it."""
    random = np.random.default_rng(0)
    lengths = random.integers(longest // 2, longest + 1, count)
    return [np.frombuffer(random.bytes(4 * n), np.float32).reshape(1, -1) for n in lengths]


def microseconds(join: Callable[[Sequence[Any]], Any], parts: Sequence[Any], rounds: int) -> float:
    """The best of several rounds."""
    number = max(3, WORK // sum(part.size + 200 for part in parts))
    best: float = min(timeit.repeat(lambda: join(parts), number=number, repeat=rounds))
    return float(best / number * 1e6)


def row(count: int, longest: int, rounds: int) -> str:
    """One line of the table."""
    ragged = parts_of(count, longest)
    even = [part[:, : longest // 2] for part in ragged]
    flat = microseconds(gather_flat, ragged, rounds)
    numpy = microseconds(lambda parts: np.concatenate(parts, axis=None), ragged, rounds)
    rows = microseconds(np.concatenate, even, rounds)
    return f"| {count} x {longest} | {flat:.1f} | {numpy:.1f} | {numpy / flat:.1f}x | {rows:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| parts x longest | gather_flat | concatenate | ratio | rows |")
    print("|---|---|---|---|---|")
    for count, longest in CASES:
        print(row(count, longest, rounds))


if __name__ == "__main__":
    main()
