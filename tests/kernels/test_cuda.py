"""The kernels' laws on a GPU; skipped without one. What the executor gave, a device must give."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.law import Law
from tests.kernels.laws import LAWS
from tests.kernels.obeying import obeyed

from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError, find_cupy
from penstock_kernels.run import Runner, load

pytestmark = pytest.mark.gpu
# CuPy knows neither everywhere.
OF_TORCH = ("bfloat16", "float8_e4m3fn")
# A sanitizer takes many times as long for each.
EXAMPLES = int(os.environ.get("PENSTOCK_GPU_EXAMPLES", "50"))


class RoundTrip:
    """Copies host arrays to the device, runs there, and copies the outputs back."""

    name = "round trip"

    def __init__(self, runner: Runner, cupy: Any) -> None:
        self._runner = runner
        self._cupy = cupy

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        there = {name: self._sent(value) for name, value in arguments.items()}
        self._runner.run(kernel, there, stream)
        self._cupy.cuda.runtime.deviceSynchronize()
        for name in kernel.outputs:
            if arguments[name] is not None:
                arguments[name].view(np.uint8)[...] = _back(there[name])

    def _sent(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype.name not in OF_TORCH:
            return self._cupy.asarray(value)
        flat = torch.from_numpy(np.ascontiguousarray(value).view(np.uint8).reshape(-1))
        return flat.cuda().view(getattr(torch, value.dtype.name)).view(value.shape)


def _back(array: Any) -> Any:
    if isinstance(array, torch.Tensor):
        return array.view(torch.uint8).cpu().numpy()
    return array.view(np.uint8).get()


@pytest.fixture(scope="module")
def runner() -> RoundTrip:
    try:
        return RoundTrip(load("cuda"), find_cupy())
    except NoDeviceError as missing:
        if "PENSTOCK_GPU_REQUIRED" in os.environ:
            raise
        pytest.skip(str(missing))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kernel)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_the_device_obeys_the_law(runner: RoundTrip, law: Law, data: Any) -> None:
    """Equal to float64 within the tolerance, and inputs are only read."""
    obeyed(law, runner, data.draw(law.arguments))
