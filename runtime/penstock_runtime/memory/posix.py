"""POSIX shared memory as the memory of a region: objects of /dev/shm, found by the key that a
client tells, and by nothing else.

The bytes are copied through `pread` and `pwrite` and never mapped: the object belongs to the
client, who may truncate it at any moment, and the first access to a mapped page that is not there
any more would end the process (SIGBUS). A copy comes out short instead.
"""

import errno
import mmap
import os
import stat
from pathlib import Path

import numpy as np

from penstock_runtime.errors import Internal, InvalidArgument, PenstockError, ResourceExhausted
from penstock_runtime.memory.shared import Registration, SegmentError, Truncated

SHM_FOLDER = Path("/dev/shm")
_RESERVED = "triton_python_backend_shm_region_"
_LONGEST_NAME = 255
# Not through links, and without waiting for the other end of a pipe.
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class PosixSegment:
    """Part of a shared memory object, by its open descriptor: it stays although its key may go."""

    __slots__ = ("_begin", "_descriptor")

    def __init__(self, descriptor: int, begin: int) -> None:
        self._descriptor = descriptor
        self._begin = begin

    @property
    def device(self) -> None:
        """It is the host's memory."""
        return None

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of so many bytes; Truncated if the object has become too small."""
        begin = self._begin + offset
        self._check_size(begin + size)
        # Not zeroed first, as a bytearray would be.
        view = np.empty(size, np.uint8).data
        done = 0
        try:
            while done < size:
                count = os.preadv(self._descriptor, [view[done:]], begin + done)
                if not count:
                    raise Truncated
                done += count
        except OSError as error:
            raise SegmentError(str(error)) from error
        return view

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy the bytes there; Truncated if the object has become too small.

        Should it be truncated between the look and the copy, it grows again, at most to what was
        registered.
        """
        view = memoryview(data).cast("B")
        begin = self._begin + offset
        self._check_size(begin + len(view))
        done = 0
        try:
            while done < len(view):
                done += os.pwritev(self._descriptor, [view[done:]], begin + done)
        except OSError as error:
            raise SegmentError(str(error)) from error

    def array(self, *_: object) -> None:
        """Host memory that others may change at any moment is not given out as an array."""
        raise NotImplementedError

    def check(self, end: int) -> None:
        """Truncated if the object has become too small for so many bytes of the region."""
        self._check_size(self._begin + end)

    def map(self, size: int) -> tuple[mmap.mmap, int]:
        """The object's pages up to the region's end, and where in them the region begins. For those
        who do not touch them; OSError or ValueError if there are not so many.
        """
        return mmap.mmap(self._descriptor, self._begin + size), self._begin

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _check_size(self, end: int) -> None:
        if os.fstat(self._descriptor).st_size < end:
            raise Truncated

    def __repr__(self) -> str:
        return f"<PosixSegment from byte {self._begin}>"


def open_posix(registration: Registration, folder: Path = SHM_FOLDER) -> PosixSegment:
    """The object of the registration's key.

    InvalidArgument for a key that is none, and where the object is smaller than what is registered;
    Internal if it cannot be opened. No text tells more of the machine than the caller did.
    """
    name = _object_name(registration.key)
    if name is None:
        raise InvalidArgument(
            f"failed to register shared memory region '{registration.name}': its key is not one "
            "that a client may use"
        )
    try:
        descriptor = os.open(folder / name, _FLAGS)
    except OSError as error:
        raise _refusal(registration, error) from None
    try:
        _check(registration, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return PosixSegment(descriptor, registration.offset)


def _object_name(key: str) -> str | None:
    """The file of a key, as shm_open has it; None for one that is no plain name, or is reserved."""
    name = key.lstrip("/")
    plain = name not in ("", ".", "..") and "/" not in name and "\0" not in name
    if not plain or name.startswith(_RESERVED) or len(os.fsencode(name)) > _LONGEST_NAME:
        return None
    return name


def _refusal(registration: Registration, error: OSError) -> PenstockError:
    if error.errno in _NO_DESCRIPTORS:
        return ResourceExhausted(
            f"failed to register shared memory region '{registration.name}': the server has "
            "as many files open as it may",
            reason="SHARED_MEMORY_REGIONS",
        )
    return _cannot_open(registration)


def _cannot_open(registration: Registration) -> Internal:
    return Internal(f"Unable to open shared memory region: '{registration.key}'")


def _check(registration: Registration, found: os.stat_result) -> None:
    # A folder cannot be opened for writing; a pipe or a device can.
    if not stat.S_ISREG(found.st_mode):
        raise _cannot_open(registration)
    size = registration.byte_size
    if size < 1 or registration.offset < 0 or registration.offset + size > found.st_size:
        raise InvalidArgument(
            f"failed to register shared memory region '{registration.name}': invalid args"
        )
