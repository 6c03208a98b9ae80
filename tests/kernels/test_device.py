"""Laws of finding devices, told by folders."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from penstock_kernels import device


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Nothing is remembered from one test to the next."""
    device.cuda_device_count.cache_clear()
    device.find_cupy.cache_clear()
    yield
    device.cuda_device_count.cache_clear()
    device.find_cupy.cache_clear()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four devices, all of them shown."""
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "gpus")
    monkeypatch.setattr(device, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number in range(4):
        (tmp_path / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
        (tmp_path / f"nvidia{number}").touch()
    return tmp_path


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


def test_a_container_counts_the_devices_that_it_was_given(machine: Path) -> None:
    """The driver's folder may show those of the whole machine."""
    for number in (1, 2, 3):
        (machine / f"nvidia{number}").unlink()

    assert device.cuda_device_count() == 1


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("0", 1),
        ("2,1", 2),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0,1,7,2", 2),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 3", 2),
    ],
)
def test_devices_that_this_process_may_not_use_do_not_count(
    machine: Path, monkeypatch: pytest.MonkeyPatch, said: str, count: int
) -> None:
    """CUDA shows those before the first that is none; instances would be placed on the rest."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)

    assert device.cuda_device_count() == count


def _homeless(_path: object) -> NoReturn:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_there_is_still_an_answer(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy gets a folder of its own, and nothing but the one error comes back."""
    monkeypatch.setenv("CUPY_CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(machine))
    monkeypatch.setattr(Path, "expanduser", _homeless)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)

    with pytest.raises(device.NoDeviceError):
        device.find_cupy()

    assert Path(os.environ["CUPY_CACHE_DIR"]).is_dir()


def test_a_cache_folder_that_cannot_be_written_is_not_left_to_cupy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import would succeed, and its first compilation fail."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)

    device._give_cupy_a_folder()

    assert os.environ["CUPY_CACHE_DIR"] != str(tmp_path)
    assert Path(os.environ["CUPY_CACHE_DIR"]).is_dir()
