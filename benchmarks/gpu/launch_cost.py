"""What a launch costs the host, in microseconds: our runner with its plan, its functions alone, a
RawKernel of CuPy, an operation of torch, and a node of a CUDA graph.

    python -m benchmarks.gpu.launch_cost --out FOLDER
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.figures import Figures, folder

from penstock_kernels.activation import SILU_MUL
from penstock_kernels.device import find_cupy
from penstock_kernels.run import device_runner

_CALLS = 2000
_SOURCE = 'extern "C" __global__ void nothing(float* x, int n) { if (n < 0) x[0] = n; }'


def microseconds(call: Callable[[], Any], calls: int = _CALLS) -> float:
    """Of the host, for one call of many; the device is done before and after."""
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    spent = time.perf_counter() - began
    torch.cuda.synchronize()
    return round(spent / calls * 1e6, 3)


def _ours() -> float:
    both = torch.zeros(1, 128, device="cuda", dtype=torch.float16)
    out = torch.zeros(1, 64, device="cuda", dtype=torch.float16)
    runner, arguments = device_runner(), {"both": both, "out": out}
    return microseconds(
        lambda: runner.run(SILU_MUL, arguments, torch.cuda.current_stream().cuda_stream)
    )


def _raw() -> float:
    kernel = find_cupy().RawKernel(_SOURCE, "nothing")
    x, n = torch.zeros(1, device="cuda").data_ptr(), np.int32(1)
    return microseconds(lambda: kernel((1,), (32,), (x, n)))


def _graph_node() -> float:
    """A graph of 200 additions, by the node."""
    x = torch.zeros(64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(200):
            x.add_(1)
    return round(microseconds(graph.replay, 200) / 200, 4)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write."""
    figures = Figures(folder(words, __doc__), "launch_cost")
    torch.zeros(1, device="cuda")
    x = torch.zeros(64, device="cuda")
    figures.add("ours, silu_mul with its plan", _ours)
    figures.add("cupy RawKernel", _raw)
    figures.add("torch add_", lambda: microseconds(lambda: x.add_(1)))
    figures.add("torch current_stream", lambda: microseconds(torch.cuda.current_stream))
    figures.add("node of a graph", _graph_node)
    figures.add("torch streams have __cuda_stream__", _has_protocol)
    return int(figures.failed > 0)


def _has_protocol() -> bool:
    return hasattr(torch.cuda.current_stream(), "__cuda_stream__")


if __name__ == "__main__":
    raise SystemExit(main())
