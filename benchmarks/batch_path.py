"""What putting a batch together and cutting it apart costs on the CPU, beside NumPy's own ways.

    python -m benchmarks.batch_path [--rounds 9]

The first table joins 32 images of 1x3x224x224 FP32: as a share of what copying as many bytes at
once takes (`memcpy`, into fresh memory as a batch has it). The second joins 64 small requests and
cuts the answer into 64 again, in microseconds for a whole batch. The third lays batches into the
slab that goes to a GPU, all that the host does for them there. Parts are read-only, as from the
wire. Exits with 1 if a floor does not hold.
"""

import argparse
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock_kernels.ragged import (
    AnyArray,
    gather_cast,
    gather_padded,
    gather_rows,
    scatter_rows,
)
from penstock_kernels.run import Reference
from penstock_runtime.datatype import DataType
from penstock_runtime.memory.host_deck import HostDeck
from penstock_runtime.memory.staging import Lane, Staging

IMAGES = (32, (1, 3, 224, 224))
SMALL = (64, (1, 16))
LEAST_SHARE = 0.8
MOST_US = 20.0


def parts_of(count: int, shape: tuple[int, ...]) -> list[AnyArray]:
    """So many read-only parts of this shape."""
    drawn = (np.random.default_rng(n).normal(size=shape).astype(np.float32) for n in range(count))
    return [np.frombuffer(array.tobytes(), np.float32).reshape(shape) for array in drawn]


def one_by_one(parts: Sequence[AnyArray]) -> AnyArray:
    """One copy per request."""
    out = np.empty((len(parts), *parts[0].shape[1:]), parts[0].dtype)
    for at, part in enumerate(parts):
        out[at : at + 1] = part
    return out


def microseconds(call: Callable[[], Any], rounds: int, number: int) -> float:
    """The best of several rounds."""
    best: float = min(timeit.repeat(call, number=number, repeat=rounds))
    return best / number * 1e6


def big(rounds: int) -> float:
    """Print how large batches are joined; the share of memcpy."""
    count, shape = IMAGES
    parts = parts_of(count, shape)
    whole = np.concatenate(parts)
    ways: dict[str, Callable[[], Any]] = {
        "memcpy": whole.copy,
        "gather_rows": lambda: gather_rows(parts),
        "np.concatenate": lambda: np.concatenate(parts),
        "one copy per request": lambda: one_by_one(parts),
        "gather_cast to FP16": lambda: gather_cast(parts, np.float16),
    }
    # In turns, so that a busy moment meets all of them.
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best[name], microseconds(way, 1, 3))
    print(
        f"| {count} x {'x'.join(map(str, shape))} FP32 | us | GB/s | of memcpy |\n|---|---|---|---|"
    )
    for name, spent in best.items():
        share = best["memcpy"] / spent
        print(f"| {name} | {spent:.0f} | {whole.nbytes / spent / 1e3:.1f} | {share:.0%} |")
    return best["memcpy"] / best["gather_rows"]


def small(rounds: int) -> float:
    """Print how small batches are joined and cut; microseconds of both together."""
    count, shape = SMALL
    parts = parts_of(count, shape)
    batch, ones = gather_rows(parts), [1] * count
    texts = [part[:, : 1 + n % 16] for n, part in enumerate(parts)]
    rows: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "penstock": (lambda: gather_rows(parts), lambda: scatter_rows(batch, ones)),
        "np.concatenate, np.split": (
            lambda: np.concatenate(parts),
            lambda: np.split(batch, count),
        ),
        "one copy per request, slices": (
            lambda: one_by_one(parts),
            lambda: [batch[at : at + 1] for at in range(count)],
        ),
        "padded to 16": (lambda: gather_padded(texts, 16), lambda: scatter_rows(batch, ones)),
    }
    what = f"{count} x {'x'.join(map(str, shape))} FP32"
    print(f"\n| {what} | merge us | split us | together |\n|---|---|---|---|")
    together = {}
    for name, (merge, split) in rows.items():
        spent = [microseconds(way, rounds, 500) for way in (merge, split)]
        together[name] = sum(spent)
        print(f"| {name} | {spent[0]:.1f} | {spent[1]:.1f} | {sum(spent):.1f} |")
    return together["penstock"]


class Slab(HostDeck):
    """The host's side of a device: what goes down is there, and no kernel runs."""

    def down(self, size: int) -> Any:
        """Without the copy."""
        return self.host(size)

    def run(self, kernel: Any, **arguments: Any) -> None:
        """The device's affair."""


def slab(rounds: int) -> None:
    """Print what laying batches into a slab costs."""
    fp32, fp16 = DataType.FP32, DataType.FP16
    small_ones, images = parts_of(*SMALL), parts_of(*IMAGES)
    texts = [part[:, : 1 + n % 16] for n, part in enumerate(small_ones)]
    cases = {
        "64 x 1x16, as they are": (Lane("X", fp32, fp32), small_ones),
        "64 x 1x16, to be cast": (Lane("X", fp32, fp16), small_ones),
        "64 of 1 to 16, to be padded": (Lane("X", fp32, fp32, pad=0.0), texts),
        "64 of 1 to 16, ragged": (Lane("X", fp32, fp32, flat=True), texts),
        "32 x 1x3x224x224, as they are": (Lane("X", fp32, fp32), images),
    }
    print("\n| into a slab, FP32 | us |\n|---|---|")
    for name, (lane, parts) in cases.items():
        staging = Staging(Slab(Reference()))
        number = 5 if parts is images else 500
        spent = microseconds(lambda: staging.merge([(lane, parts)], 16), rounds, number)  # noqa: B023
        print(f"| {name} | {spent:.1f} |")


def main() -> int:
    """Print the tables; 1 if a floor does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    share, spent = big(rounds), small(rounds)
    slab(rounds)
    holds = share >= LEAST_SHARE and spent < MOST_US
    print(
        f"\nat least {LEAST_SHARE:.0%} of memcpy: {share:.0%}; under {MOST_US:.0f} us: {spent:.1f}"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
