"""What the driver's management library (NVML) says of the GPUs, under Triton's names.

The library is opened at the first scrape and only if the machine has it; a figure that a GPU does
not offer is left out. It comes with the driver, so that no package is needed.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock_runtime.observability.metrics import Family, Kind, Sample

LIBRARY = "libnvidia-ml.so.1"
_UUID_BYTES = 96

_log = logging.getLogger(__name__)

# Name, kind, help, attribute of a reading.
_FAMILIES: tuple[tuple[str, Kind, str, str], ...] = (
    (
        "nv_gpu_utilization",
        "gauge",
        "Part of the time that the GPU was busy, 0 to 1",
        "utilization",
    ),
    ("nv_gpu_memory_total_bytes", "gauge", "Memory of the GPU in bytes", "memory_total"),
    ("nv_gpu_memory_used_bytes", "gauge", "Memory of the GPU in use, in bytes", "memory_used"),
    ("nv_gpu_power_usage", "gauge", "Power that the GPU draws, in watts", "power_usage"),
    ("nv_gpu_power_limit", "gauge", "Power that the GPU may draw, in watts", "power_limit"),
    ("nv_energy_consumption", "counter", "Joules since the driver was loaded", "energy"),
)


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU now: part busy (0 to 1), bytes, watts, joules; None where it does not say."""

    uuid: str
    utilization: float | None = None
    memory_total: float | None = None
    memory_used: float | None = None
    power_usage: float | None = None
    power_limit: float | None = None
    energy: float | None = None


class Nvml:
    """The few calls of the library that are needed; `library` is what ctypes loaded."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def read(self) -> list[GpuReading]:
        """Every GPU that this process may see."""
        count = ctypes.c_uint()
        if not self._call("nvmlDeviceGetCount_v2", count):
            return []
        return [reading for index in range(count.value) for reading in self._read_one(index)]

    def _read_one(self, index: int) -> Iterator[GpuReading]:
        device = ctypes.c_void_p()
        uuid = ctypes.create_string_buffer(_UUID_BYTES)
        if not self._call("nvmlDeviceGetHandleByIndex_v2", device, index):
            return
        if self._library.nvmlDeviceGetUUID(device, uuid, _UUID_BYTES) != 0:
            return
        busy, memory = _Utilization(), _Memory()
        has_busy = self._call("nvmlDeviceGetUtilizationRates", busy, device)
        has_memory = self._call("nvmlDeviceGetMemoryInfo", memory, device)
        yield GpuReading(
            uuid=uuid.value.decode(errors="replace"),
            utilization=busy.gpu / 100 if has_busy else None,
            memory_total=memory.total if has_memory else None,
            memory_used=memory.used if has_memory else None,
            power_usage=self._milli("nvmlDeviceGetPowerUsage", ctypes.c_uint(), device),
            power_limit=self._milli("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint(), device),
            energy=self._milli("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong(), device),
        )

    def _milli(
        self, name: str, value: ctypes.c_uint | ctypes.c_ulonglong, device: object
    ) -> float | None:
        return value.value / 1000 if self._call(name, value, device) else None

    def _call(self, name: str, out: Any, *arguments: object) -> bool:
        """Whether the call filled `out`, which every call takes last."""
        return bool(getattr(self._library, name)(*arguments, ctypes.byref(out)) == 0)


def open_nvml() -> Nvml | None:
    """The library, initialised; None on a machine without an NVIDIA driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    code = library.nvmlInit_v2()
    if code != 0:
        _log.warning("the GPU management library did not start (code %d): no GPU metrics", code)
        return None
    return Nvml(library)


class GpuMetrics:
    """Tells of the GPUs at each scrape; of nothing where there are none."""

    def __init__(self, load: Callable[[], Nvml | None] = open_nvml) -> None:
        self._load = load
        self._opened = False
        self._nvml: Nvml | None = None

    def families(self) -> list[Family]:
        """The nv_gpu_* families and nv_energy_consumption, with the label gpu_uuid."""
        if not self._opened:
            self._nvml = self._load()
            self._opened = True
        readings = self._nvml.read() if self._nvml else []
        return [family for family in _families(readings) if family.samples]


def _families(readings: list[GpuReading]) -> Iterator[Family]:
    for name, kind, help_, attribute in _FAMILIES:
        samples = (
            Sample(getattr(reading, attribute), {"gpu_uuid": reading.uuid})
            for reading in readings
            if getattr(reading, attribute) is not None
        )
        yield Family(name, kind, help_, tuple(samples))
