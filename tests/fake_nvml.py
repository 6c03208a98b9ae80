"""A stand-in for the GPU driver's management library."""

import ctypes
from typing import Any


class FakeNvml:
    """Two GPUs, the second of which tells no power and no energy."""

    def nvmlDeviceGetCount_v2(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, out: Any) -> int:  # noqa: N802
        out._obj.value = index + 1
        return 0

    def nvmlDeviceGetUUID(self, device: ctypes.c_void_p, out: Any, size: int) -> int:  # noqa: N802
        out.value = f"GPU-{device.value}".encode()
        return 0

    def nvmlDeviceGetUtilizationRates(self, device: ctypes.c_void_p, out: Any) -> int:  # noqa: N802
        out._obj.gpu = 40
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: ctypes.c_void_p, out: Any) -> int:  # noqa: N802
        out._obj.total, out._obj.used = 1000, 300
        return 0

    def nvmlDeviceGetPowerUsage(self, device: ctypes.c_void_p, out: Any) -> int:  # noqa: N802
        out._obj.value = 70_500
        return 0 if device.value == 1 else 3

    nvmlDeviceGetEnforcedPowerLimit = nvmlDeviceGetPowerUsage  # noqa: N815
    nvmlDeviceGetTotalEnergyConsumption = nvmlDeviceGetPowerUsage  # noqa: N815
