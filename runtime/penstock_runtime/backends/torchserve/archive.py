"""A `.mar` file: a zip that is unpacked only if everything in it is what it should be.

Names stay below the folder, links and encrypted members are refused, and no more bytes are written
than the archive's own size makes plausible.
"""

import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from penstock_runtime.errors import InvalidArgument, ResourceExhausted

MAX_MEMBERS = 20_000
MAX_TOTAL = 64 << 30
# Weights hardly compress, text does so tenfold; a bomb does so a thousandfold.
MAX_RATIO = 100
FREE_BYTES = 64 << 20
MAX_NAME = 1024
_CHUNK = 1 << 20
_ENCRYPTED = 0x1
# All that zipfile raises for bytes that are none of a zip.
_DAMAGED = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


class ModelArchive:
    """An open archive whose list of members has been checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._members = {item.filename: item for item in archive.infolist() if not item.is_dir()}

    @property
    def names(self) -> frozenset[str]:
        """The names of all files."""
        return frozenset(self._members)

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a member of at most `limit`; None where it is not there."""
        member = self._members.get(name)
        if member is None:
            return None
        with _opened(self._path, self._archive, member) as file:
            data = _read(self._path, file, limit + 1)
        if len(data) > limit:
            raise _refused(self._path, f"has a {name[:64]!r} of more than {limit} bytes")
        return data

    def unpack(self, target: Path) -> None:
        """Write every member below `target`, an empty folder."""
        for name, member in self._members.items():
            path = target / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _opened(self._path, self._archive, member) as file, path.open("xb") as out:
                    _copy(self._path, file, out, member)
            except OSError as error:
                raise ResourceExhausted(
                    f"{self._path.name} cannot be unpacked: {error.strerror}"
                ) from error


@contextmanager
def open_archive(path: Path) -> Iterator[ModelArchive]:
    """The archive at `path`; InvalidArgument for one that is broken or not to be unpacked."""
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _refused(path, "is no zip archive; torch-model-archiver writes one by default") from (
            error
        )
    with archive:
        _check(path, archive.infolist())
        yield ModelArchive(path, archive)


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise _refused(path, f"has {len(members)} members, more than {MAX_MEMBERS}")
    allowed = min(MAX_TOTAL, FREE_BYTES + MAX_RATIO * path.stat().st_size)
    total = sum(member.file_size for member in members)
    if total > allowed:
        raise _refused(path, f"would unpack to {total} bytes, more than {allowed} for its size")
    files: set[str] = set()
    for member in members:
        _check_member(path, member)
        if member.filename in files:
            raise _refused(path, f"has {_shown(member.filename)} twice")
        files.add(member.filename)
    for name in files:
        parts = name.split("/")
        if any("/".join(parts[:end]) in files for end in range(1, len(parts))):
            raise _refused(path, f"has {_shown(name)} inside another file")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.removesuffix("/")
    parts = name.split("/")
    # orig_filename has what zipfile cuts off: everything from a zero byte on.
    if (
        any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        or len(name) > MAX_NAME
        or "\\" in member.orig_filename
        or not member.orig_filename.isprintable()
    ):
        raise _refused(path, f"has a member {_shown(member.orig_filename)}, outside of its folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(path, f"has {_shown(name)}, which is a link or a device")
    if member.flag_bits & _ENCRYPTED:
        raise _refused(path, f"has {_shown(name)} encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(path, f"has {_shown(name)} compressed in a way that zip seldom is")


def _opened(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    try:
        return archive.open(member)  # type: ignore[return-value] # it has all that is used of it
    except _DAMAGED as error:
        raise _refused(path, f"has {_shown(member.filename)} damaged") from error


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    # zlib's own error derives from Exception and has no other name.
    except Exception as error:
        raise _refused(path, "has a member that is damaged") from error


def _copy(path: Path, file: BinaryIO, out: BinaryIO, member: zipfile.ZipInfo) -> None:
    left = member.file_size
    while chunk := _read(path, file, _CHUNK):
        left -= len(chunk)
        if left < 0:
            raise _refused(path, f"has more in {_shown(member.filename)} than it says")
        out.write(chunk)
    if left:
        raise _refused(path, f"has less in {_shown(member.filename)} than it says")


def remove(folder: Path) -> None:
    """Remove what was unpacked; more than once does no harm."""
    shutil.rmtree(folder, ignore_errors=True)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "...")


def _refused(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(f"{path.name} {what}")
