"""Regions of memory that clients share with the server: what is registered under which name, who
uses it, and when it may be closed.

Bookkeeping only; the memory itself is behind a `Segment`. A region that is unregistered while it is
used cannot be found any more, and is closed by the last who uses it. Thread-safe.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.memory.places import Place
from penstock_runtime.observability.metrics import Family, Sample

_log = logging.getLogger("penstock.memory")

MAX_NAME = 1024


class Kind(Enum):
    """What a region is made of; the value is its name in messages and metrics."""

    SYSTEM = "system"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Registration:
    """A region as its client registered it: `key` and `offset` are those of system memory,
    `device_id` is the GPU of CUDA memory.
    """

    name: str
    kind: Kind
    byte_size: int
    key: str = ""
    offset: int = 0
    device_id: int = 0


class Truncated(Exception):
    """The memory ends before the range that was asked for."""


class SegmentError(Exception):
    """The system or the driver refused; the text is for the log."""


class Segment(Protocol):
    """The memory of one region. Offsets count from the region's start.

    `read` and `write` raise Truncated, or SegmentError for whatever else went wrong.
    """

    @property
    def device(self) -> int | None:
        """The GPU that the memory is on; None for the host."""

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of so many bytes."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy the bytes there."""

    def array(self, offset: int, datatype: DataType, shape: tuple[int, ...], owner: object) -> Any:
        """The memory itself as an array on its device, which keeps `owner` alive; only where
        `device` is not None.
        """

    def close(self) -> None:
        """Let go of the memory; nobody uses it."""


class _Region:
    """A registration, its memory and how many use it now."""

    __slots__ = ("listed", "registration", "segment", "users")

    def __init__(self, registration: Registration, segment: Segment) -> None:
        self.registration = registration
        self.segment = segment
        self.users = 0
        self.listed = True


class RegionTable:
    """The regions of one server; at most `limit` are open, those included that are only kept for
    who still uses them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._regions: dict[str, _Region] = {}
        self._open: set[_Region] = set()
        self._closed = False
        # Reentrant: a use that is forgotten may be collected anywhere, also in here.
        self._lock = threading.RLock()
        self._registering = threading.Lock()

    # -- registrations ---------------------------------------------------------------------------

    def register(self, registration: Registration, open_segment: Callable[[], Segment]) -> None:
        """Register a region; blocks while its memory is opened, whose errors are passed on.

        AlreadyExists for a name that is taken, ResourceExhausted beyond the limit.
        """
        with self._registering:
            self._check_new(registration)
            segment = open_segment()
            region = _Region(registration, segment)
            with self._lock:
                kept = not self._closed
                if kept:
                    self._regions[registration.name] = region
                    self._open.add(region)
        if not kept:
            _close((region,))
            raise Unavailable("the server is going down and shares no more memory")

    def _check_new(self, registration: Registration) -> None:
        name = registration.name
        if not 0 < len(name) <= MAX_NAME:
            raise InvalidArgument(
                f"the name of a shared memory region has {len(name)} characters, expected 1 to "
                f"{MAX_NAME}"
            )
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"shared memory region '{name}' already in manager")
            if len(self._open) >= self._limit:
                raise ResourceExhausted(
                    f"failed to register shared memory region '{name}': {len(self._open)} regions "
                    "are open, which is as many as this server allows; unregister what is not used",
                    reason="SHARED_MEMORY_REGIONS",
                )

    def unregister(self, kind: Kind, name: str = "") -> None:
        """Forget the region of this kind and name, or every region of the kind; one that is not
        there is no error.
        """
        with self._lock:
            going = [
                region
                for region in self._regions.values()
                if region.registration.kind is kind and name in ("", region.registration.name)
            ]
            idle = self._unlist(going)
        _close(idle)

    def _unlist(self, going: Iterable[_Region]) -> list[_Region]:
        """Take these out of the table; those that can be closed. Under the lock."""
        idle = []
        for region in going:
            del self._regions[region.registration.name]
            region.listed = False
            if not region.users:
                self._open.discard(region)
                idle.append(region)
        return idle

    def status(self, kind: Kind, name: str = "") -> list[Registration]:
        """The region of this kind and name, or every region of the kind, by name. NotFound."""
        with self._lock:
            found = [
                region.registration
                for region in self._regions.values()
                if region.registration.kind is kind and name in ("", region.registration.name)
            ]
        if name and not found:
            raise NotFound(f"Unable to find {kind.value} shared memory region: '{name}'")
        return sorted(found, key=lambda registration: registration.name)

    def close(self) -> None:
        """Forget every region and accept none any more."""
        with self._lock:
            self._closed = True
            idle = self._unlist(tuple(self._regions.values()))
        _close(idle)

    # -- uses ------------------------------------------------------------------------------------

    def check(self, place: Place) -> None:
        """Refuse a place that is in no region: NotFound, or InvalidArgument where it is out of the
        region's bounds.
        """
        with self._lock:
            self._find(place)

    def use(self, place: Place) -> "RegionUse":
        """The place, whose region stays open until the use is closed. Raises as `check` does."""
        with self._lock:
            region = self._find(place)
            region.users += 1
        return RegionUse(self, region, place)

    def _find(self, place: Place) -> _Region:
        region = self._regions.get(place.region)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{place.region}'")
        size = region.registration.byte_size
        if not 0 <= place.offset <= size:
            raise InvalidArgument(f"Invalid offset for shared memory region: '{place.region}'")
        # Python's integers do not overflow.
        if place.byte_size < 0 or place.offset + place.byte_size > size:
            raise out_of_bounds(place)
        return region

    def release(self, region: _Region) -> None:
        """One who used the region does not any more."""
        with self._lock:
            region.users -= 1
            last = not region.users and not region.listed
            if last:
                self._open.discard(region)
        if last:
            _close((region,))

    # -- for whoever looks on --------------------------------------------------------------------

    @property
    def open_regions(self) -> int:
        """How many are open, registered or not."""
        return len(self._open)

    def families(self) -> list[Family]:
        """Regions and their bytes, by kind."""
        count: Counter[Kind] = Counter()
        size: Counter[Kind] = Counter()
        with self._lock:
            for region in self._regions.values():
                count[region.registration.kind] += 1
                size[region.registration.kind] += region.registration.byte_size
        return [
            _by_kind("penstock_shared_memory_regions", "Regions that clients registered", count),
            _by_kind("penstock_shared_memory_bytes", "Bytes of these regions", size),
        ]

    def __repr__(self) -> str:
        return f"<RegionTable {len(self._regions)} registered, {len(self._open)} open>"


class RegionUse:
    """A place in a region that stays open until `close`, or until nobody knows this object."""

    __slots__ = ("_closed", "_region", "_table", "place")

    def __init__(self, table: RegionTable, region: _Region, place: Place) -> None:
        self._table = table
        self._region = region
        self._closed = False
        self.place = place

    @property
    def device(self) -> int | None:
        """The GPU that the region is on; None for the host."""
        return self._region.segment.device

    def read(self) -> memoryview:
        """A copy of the bytes; InvalidArgument if the memory has become smaller than its
        registration.
        """
        place = self.place
        try:
            return self._region.segment.read(place.offset, place.byte_size)
        except Truncated:
            raise out_of_bounds(place) from None
        except SegmentError as error:
            raise _broken(place, "read", error) from error

    def write(self, data: bytes | memoryview) -> None:
        """Copy the bytes, which must fit into the place, to its start; raises as `read` does."""
        place = self.place
        try:
            self._region.segment.write(place.offset, data)
        except Truncated:
            raise out_of_bounds(place) from None
        except SegmentError as error:
            raise _broken(place, "written", error) from error

    def array(self, datatype: DataType, shape: tuple[int, ...]) -> Any:
        """The memory as an array on its device; this use is closed when the array is gone."""
        try:
            return self._region.segment.array(self.place.offset, datatype, shape, self)
        except SegmentError as error:
            self.close()
            raise _broken(self.place, "read", error) from error

    def upload(self, datatype: DataType, shape: tuple[int, ...], device: int) -> Any | None:
        """The host's bytes as an array on a GPU, copied by that; None where they have to be read.
        Raises as `read` does.
        """
        upload = getattr(self._region.segment, "upload", None)
        if upload is None:
            return None
        try:
            return upload(self.place.offset, datatype, shape, device)
        except Truncated:
            raise out_of_bounds(self.place) from None
        except SegmentError as error:
            raise _broken(self.place, "read", error) from error

    def close(self) -> None:
        """The place is not used any more; safe to call more than once, by one thread."""
        if not self._closed:
            self._closed = True
            self._table.release(self._region)

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RegionUse {self.place}{' closed' if self._closed else ''}>"


def out_of_bounds(place: Place) -> InvalidArgument:
    """What is said of a place that ends behind the end of its region."""
    return InvalidArgument(f"Invalid offset + byte size for shared memory region: '{place.region}'")


def _broken(place: Place, what: str, error: SegmentError) -> Internal:
    _log.error("shared memory region %r cannot be %s: %s", place.region, what, error)
    return Internal(f"shared memory region '{place.region}' cannot be {what}")


def _close(regions: Iterable[_Region]) -> None:
    """Outside the lock: a driver may take its time."""
    for region in regions:
        try:
            region.segment.close()
        except Exception:
            _log.exception("closing %r failed", region.registration.name)


def _by_kind(name: str, text: str, values: Counter[Kind]) -> Family:
    samples = tuple(Sample(values[kind], {"kind": kind.value}) for kind in Kind)
    return Family(name, "gauge", text, samples)
