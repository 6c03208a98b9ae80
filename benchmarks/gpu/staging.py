"""Ways of a batch of images to the device, in microseconds for 32 of 3x224x224 in FP32, as FP16;
and for 32 photographs of up to 1080 pixels a side.

python -m benchmarks.gpu.staging --out FOLDER
"""

from collections.abc import Sequence

import numpy as np
import torch
from benchmarks.gpu.figures import Figures, folder
from benchmarks.gpu.images import Images
from benchmarks.gpu.launch_cost import microseconds

from penstock_kernels.gather import GATHER_PAD
from penstock_kernels.run import device_runner

_ROWS, _SIZE = 32, 3 * 224 * 224
_CALLS = 50


class _Batch:
    """The parts as they come, a slab for them on either side, and the goal."""

    def __init__(self) -> None:
        self.parts = [torch.randn(_SIZE) for _ in range(_ROWS)]
        self.pinned = [part.pin_memory() for part in self.parts]
        self.slab = torch.empty(_ROWS * _SIZE, pin_memory=True)
        self.there = torch.empty(_ROWS * _SIZE, device="cuda")
        self.out = torch.empty(_ROWS, _SIZE, device="cuda", dtype=torch.float16)
        self._start = torch.arange(_ROWS, device="cuda") * _SIZE * 4
        self._count = torch.full((_ROWS,), _SIZE, device="cuda", dtype=torch.int32)
        self._runner = device_runner()

    def gather(self, slab: torch.Tensor) -> None:
        """Cast and pad by the kernel, from wherever the slab lies."""
        arguments = {
            "slab": slab.view(torch.uint8),
            "start": self._start,
            "count": self._count,
            "dtype": np.float32,
            "out": self.out,
            "mask": None,
            "pad": 0.0,
        }
        self._runner.run(GATHER_PAD, arguments, torch.cuda.current_stream().cuda_stream)

    def fill(self) -> None:
        """What the server does with bytes from the wire."""
        torch.cat(self.parts, out=self.slab)

    def copy_each(self, parts: list[torch.Tensor]) -> None:
        """A copy for each request, and a cast."""
        rows = self.there.view(_ROWS, _SIZE)
        for row, part in zip(rows, parts, strict=True):
            row.copy_(part, non_blocking=True)
        self.out.copy_(rows)
        torch.cuda.synchronize()

    def one_copy(self) -> None:
        """Slab, one copy, one gather."""
        self.fill()
        self.there.copy_(self.slab, non_blocking=True)
        self.gather(self.there)
        torch.cuda.synchronize()

    def pulled(self) -> None:
        """Slab, and a gather that reads it over the bus."""
        self.fill()
        self.gather(self.slab)
        torch.cuda.synchronize()

    def registered(self) -> None:
        """As a client's registered memory: nothing is copied by the CPU."""
        self.gather(self.slab)
        torch.cuda.synchronize()


def _various() -> dict[str, float]:
    return {name: microseconds(way, _CALLS) for name, way in Images().ways().items()}


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write."""
    figures = Figures(folder(words, __doc__), "staging")
    batch = _Batch()
    ways = {
        "a copy for each request, from pageable memory": lambda: batch.copy_each(batch.parts),
        "a copy for each request, from pinned memory": lambda: batch.copy_each(batch.pinned),
        "slab, one copy, gather": batch.one_copy,
        "slab, gather over the bus": batch.pulled,
        "registered memory, gather over the bus": batch.registered,
        "of these, filling the slab": batch.fill,
    }
    for name, way in ways.items():
        figures.add(name, lambda way=way: microseconds(way, _CALLS))  # type: ignore[misc]
    figures.add("images of various sizes", _various)
    return int(figures.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
