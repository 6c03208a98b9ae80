"""Laws of finding devices, told by folders."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_kernels import device


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Nothing is remembered from one test to the next."""
    device.cuda_device_count.cache_clear()
    yield
    device.cuda_device_count.cache_clear()


def test_devices_are_counted_in_the_drivers_folder_else_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox may show the files alone; what controls the driver is no device."""
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "gpus")
    monkeypatch.setattr(device, "_DEVICES", tmp_path)
    found = [device.cuda_device_count()]
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    device.cuda_device_count.cache_clear()
    found.append(device.cuda_device_count())
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    device.cuda_device_count.cache_clear()
    found.append(device.cuda_device_count())

    assert found == [0, 2, 1]
