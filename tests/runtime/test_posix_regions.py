"""Laws of system shared memory as the memory of a region, on files that stand for /dev/shm."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_runtime.errors import Internal, InvalidArgument, ResourceExhausted
from penstock_runtime.memory.posix import PosixSegment, open_posix
from penstock_runtime.memory.shared import Kind, Registration, SegmentError, Truncated


def registration(key: str = "/k", size: int = 64, offset: int = 0) -> Registration:
    """A registration of this key."""
    return Registration("r", Kind.SYSTEM, size, key, offset)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an object of 64 bytes under the key k."""
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm" / "k").write_bytes(bytes(range(64)))
    return tmp_path / "shm"


@pytest.fixture
def segment(folder: Path) -> Iterator[PosixSegment]:
    """The object, but for its first eight bytes."""
    made = open_posix(registration(size=56, offset=8), folder)
    yield made
    made.close()


@pytest.mark.parametrize("key", ["/k", "k", "//k"])
def test_a_key_is_a_name_with_or_without_slashes_before_it(folder: Path, key: str) -> None:
    """As shm_open has it."""
    made = open_posix(registration(key), folder)

    assert bytes(made.read(2, 3)) == bytes((2, 3, 4))
    made.close()


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "/",
            "///",
            ".",
            "..",
            "/..",
            "../x",
            "/../x",
            "a/b",
            "/a/../k",
            "k/",
            "k\0",
            "x" * 256,
        ),
        *("triton_python_backend_shm_region_1", "/triton_python_backend_shm_region_1"),
        "é" * 128,
    ],
)
def test_a_key_that_is_no_plain_name_or_is_reserved_is_refused(folder: Path, key: str) -> None:
    """Nothing is opened, though it be there, and the text names the region only."""
    (folder.parent / "x").write_bytes(bytes(64))
    (folder / "triton_python_backend_shm_region_1").write_bytes(bytes(64))

    with pytest.raises(InvalidArgument) as refused:
        open_posix(registration(key), folder)

    assert refused.value.message == (
        "failed to register shared memory region 'r': its key is not one that a client may use"
    )


def test_what_is_no_object_of_its_own_cannot_be_opened(folder: Path) -> None:
    """A link, a folder, a pipe, nothing, and what may not be written: all of one text, so that no
    one learns which; and opening a pipe waits for nobody.
    """
    (folder / "link").symlink_to(folder / "k")
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "dir").mkdir()
    os.mkfifo(folder / "pipe")
    refusals = []

    for name in ("link", "outside", "dir", "pipe", "nothing"):
        with pytest.raises(Internal) as refused:
            open_posix(registration(f"/{name}"), folder)
        refusals.append(refused.value.message)

    assert refusals == [
        f"Unable to open shared memory region: '/{name}'"
        for name in ("link", "outside", "dir", "pipe", "nothing")
    ]


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 65), (64, 1), (1, 64), (0, 0), (0, 1 << 63), (32, (1 << 64) - 32), ((1 << 64) - 1, 1)],
)
def test_a_registration_lies_within_its_object(folder: Path, offset: int, size: int) -> None:
    """Also where offset and size would overflow 64 bits; no descriptor is left behind."""
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(InvalidArgument) as refused:
        open_posix(registration(size=size, offset=offset), folder)

    assert refused.value.message == "failed to register shared memory region 'r': invalid args"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_without_descriptors_says_so(folder: Path) -> None:
    """That is no fault of the key."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(ResourceExhausted, match="as many files open as it may"):
            open_posix(registration(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bytes_are_read_and_written_at_the_place_of_the_region(
    folder: Path, segment: PosixSegment
) -> None:
    """The region begins at its own offset."""
    segment.write(0, b"abc")
    segment.write(53, memoryview(b"xyz"))

    assert bytes(segment.read(0, 4)) == b"abc\x0b"
    assert (folder / "k").read_bytes()[8:11] == b"abc"
    assert (folder / "k").read_bytes()[-3:] == b"xyz"
    assert segment.read(56, 0).nbytes == 0


def test_an_object_without_its_name_stays(folder: Path, segment: PosixSegment) -> None:
    """A client may unlink its key as soon as it is registered."""
    (folder / "k").unlink()

    assert bytes(segment.read(0, 2)) == b"\x08\x09"


@pytest.mark.parametrize("size", [0, 8, 63])
def test_an_object_that_was_truncated_is_neither_read_nor_made_larger(
    folder: Path, segment: PosixSegment, size: int
) -> None:
    """The size counts that it has now; a mapping would have ended the process."""
    os.truncate(folder / "k", size)

    with pytest.raises(Truncated):
        segment.read(0, 56)
    with pytest.raises(Truncated):
        segment.write(0, bytes(56))

    assert (folder / "k").stat().st_size == size


def test_an_object_that_is_truncated_after_the_look_comes_out_short(
    folder: Path, segment: PosixSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the size and the copy anything may happen; nothing that kills."""
    os.truncate(folder / "k", 20)
    monkeypatch.setattr(PosixSegment, "_check_size", lambda self, end: None)

    with pytest.raises(Truncated):
        segment.read(0, 56)
    segment.write(0, bytes(56))

    assert (folder / "k").stat().st_size == 64


def test_a_fault_of_the_system_is_an_error_of_the_segment(
    segment: PosixSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full file system, say."""

    def fails(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fails)
    monkeypatch.setattr(os, "preadv", fails)

    with pytest.raises(SegmentError, match="No space left"):
        segment.write(0, b"x")
    with pytest.raises(SegmentError, match="No space left"):
        segment.read(0, 1)


def test_a_copy_that_the_system_makes_in_parts_is_whole(
    folder: Path, segment: PosixSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call copies at most 2 GiB, or fewer bytes for reasons of its own."""
    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][:7]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: write(fd, [views[0][:5]], at))

    segment.write(0, bytes(range(100, 156)))

    assert bytes(segment.read(0, 56)) == bytes(range(100, 156))
    assert (folder / "k").read_bytes()[:8] == bytes(range(8))
