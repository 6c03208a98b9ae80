"""Laws of client memory that a GPU reads by itself, on a driver that copies within the host: it is
registered once, when it is first wanted there, and let go with its region.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.memory.pinned import PinnedSegment
from penstock_runtime.memory.places import Place
from penstock_runtime.memory.posix import open_posix
from penstock_runtime.memory.shared import Kind, RegionTable, Registration, SegmentError, Truncated

REGION = Registration("r", Kind.SYSTEM, 64, key="/pinned", offset=16)


class FakeDriver:
    """Writes down what is asked of it, and copies for the copy engine."""

    def __init__(self, refuses: bool = False) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._refuses = refuses

    def pin(self, address: int, size: int) -> None:
        self.asked.append(("pin", size))
        if self._refuses:
            raise SegmentError("cudaErrorMemoryAllocation")

    def unpin(self, address: int) -> None:
        self.asked.append(("unpin",))

    def upload(self, pointer: int, datatype: DataType, shape: tuple[int, ...], device: int) -> Any:
        self.asked.append(("upload", device))
        made = np.empty(shape, datatype.numpy)
        ctypes.memmove(made.ctypes.data, pointer, made.nbytes)
        return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the object of the region."""
    (tmp_path / "pinned").write_bytes(bytes(range(80)))
    return tmp_path


def segment(folder: Path, driver: FakeDriver | None) -> PinnedSegment:
    inner = open_posix(REGION, folder)
    return PinnedSegment(REGION, inner, lambda: driver)  # type: ignore[arg-type, return-value]


def test_bytes_go_up_without_a_copy_of_the_cpu(folder: Path) -> None:
    """From their offset in the region; the object is registered once, and not before."""
    driver = FakeDriver()
    made = segment(folder, driver)
    before = list(driver.asked)

    found = [made.upload(offset, DataType.INT16, (2, 3), 1) for offset in (0, 8)]
    made.close()

    assert before == []
    assert driver.asked == [("pin", 80), ("upload", 1), ("upload", 1), ("unpin",)]
    for offset, array in zip((16, 24), found, strict=True):
        assert array is not None
        assert array.tobytes() == bytes(range(offset, offset + 12))


@pytest.mark.parametrize("driver", [None, FakeDriver(refuses=True)])
def test_where_nothing_can_be_registered_bytes_are_read(
    folder: Path, driver: FakeDriver | None
) -> None:
    """That is found out once, and the region is as good as any."""
    made = segment(folder, driver)

    found = [made.upload(0, DataType.UINT8, (4,), 0) for _ in range(2)]

    assert found == [None, None]
    assert bytes(made.read(0, 4)) == bytes((16, 17, 18, 19))
    made.close()
    assert driver is None or driver.asked == [("pin", 80)]


def test_an_object_that_was_truncated_is_refused_and_not_touched(folder: Path) -> None:
    """Before and after it was registered."""
    early, late = segment(folder, FakeDriver()), segment(folder, FakeDriver())
    late.upload(0, DataType.UINT8, (4,), 0)

    (folder / "pinned").write_bytes(bytes(40))

    assert early.upload(0, DataType.UINT8, (4,), 0) is None
    with pytest.raises(Truncated):
        late.upload(0, DataType.UINT8, (64,), 0)
    assert late.upload(0, DataType.UINT8, (4,), 0) is not None
    early.close()
    late.close()


def test_a_region_in_use_is_let_go_by_its_last_user(folder: Path) -> None:
    """What a table does with any region; a place that became too large is its caller's fault."""
    driver, table = FakeDriver(), RegionTable(4)
    table.register(REGION, lambda: segment(folder, driver))
    use, other = table.use(Place("r", 8, 4)), table.use(Place("r", 64))

    table.unregister(Kind.SYSTEM)
    found = use.upload(DataType.UINT8, (8,), 0)
    (folder / "pinned").write_bytes(bytes(40))
    with pytest.raises(InvalidArgument, match="Invalid offset"):
        other.upload(DataType.UINT8, (64,), 0)
    use.close()
    still = list(driver.asked)
    other.close()

    assert found is not None
    assert found.tolist() == list(range(20, 28))
    assert ("unpin",) not in still
    assert driver.asked[-1] == ("unpin",)


def test_what_the_gpu_does_not_take_is_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That is told once for a region, and tried again."""

    class Refusing(FakeDriver):
        def upload(self, *_: object) -> Any:
            self.asked.append(("upload", 0))
            raise SegmentError("cudaErrorInvalidValue")

    driver = Refusing()
    made = segment(folder, driver)

    found = [made.upload(0, DataType.UINT8, (4,), 0) for _ in range(2)]
    made.close()

    assert found == [None, None]
    assert driver.asked == [("pin", 80), ("upload", 0), ("upload", 0), ("unpin",)]
    assert caplog.text.count("cudaErrorInvalidValue") == 1
