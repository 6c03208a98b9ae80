"""The header of a safetensors file, checked to the last byte before anything is allocated by what
it claims.

The format: 8 bytes with the length of the header, the header as JSON (tensor name to dtype, shape
and offsets into the data), the data. Tensors lie one after the other, without holes or overlaps.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from penstock_runtime.errors import InvalidArgument

# The reference reader allows 100 MB, which takes over a gigabyte to parse here; 16 MiB hold the
# headers of some 150,000 tensors.
MAX_HEADER = 16 << 20
MAX_DIMS = 32

# dtype of the format: the attribute of torch, and bytes per element.
DTYPES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "BOOL": ("bool", 1),
        "U8": ("uint8", 1),
        "I8": ("int8", 1),
        "F8_E4M3": ("float8_e4m3fn", 1),
        "F8_E5M2": ("float8_e5m2", 1),
        "U16": ("uint16", 2),
        "I16": ("int16", 2),
        "F16": ("float16", 2),
        "BF16": ("bfloat16", 2),
        "U32": ("uint32", 4),
        "I32": ("int32", 4),
        "F32": ("float32", 4),
        "U64": ("uint64", 8),
        "I64": ("int64", 8),
        "F64": ("float64", 8),
        "C64": ("complex64", 8),
    }
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor: its dtype in the format's words, its shape, and its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.elements * DTYPES[self.dtype][1]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, in the order of their data. Raises InvalidArgument for any file that
    is not exactly what it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _header_length(path.name, file, size)
        data = file.read(length)
    entries = _parse(path.name, data)
    first, held = 8 + length, size - 8 - length
    spans = sorted(_span(path.name, name, entry) for name, entry in entries.items())
    return _laid_out(path.name, spans, first, held)


def _header_length(file_name: str, file: BinaryIO, size: int) -> int:
    start = file.read(8)
    if len(start) < 8:
        raise _broken(file_name, f"has {size} bytes, less than the 8 of the header's length")
    length: int = struct.unpack("<Q", start)[0]
    if length > MAX_HEADER:
        raise _broken(file_name, f"claims a header of {length} bytes, more than {MAX_HEADER}")
    if length > size - 8:
        raise _broken(file_name, f"claims a header of {length} bytes, but has {size - 8} after it")
    return length


def _parse(file_name: str, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(file_name, f"has a header that is no JSON object ({error})") from error
    if not isinstance(header, dict):
        raise _broken(file_name, "has a header that is no JSON object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands there twice")
    return names


_Span = tuple[int, int, str, str, tuple[int, ...]]


def _span(file_name: str, name: str, entry: object) -> _Span:
    """Begin, end, name, dtype and shape of one entry, each of the right type and in agreement."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(file_name, f"has no dtype, shape and data_offsets for {_shown(name)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(file_name, f"has the unknown dtype {str(dtype)[:32]!r} for {_shown(name)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMS:
        raise _broken(file_name, f"has no shape for {_shown(name)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(file_name, f"has no data_offsets for {_shown(name)}")
    begin, end = offsets
    needed = prod(shape) * DTYPES[dtype][1]
    if end - begin != needed:
        raise _broken(
            file_name, f"has {end - begin} bytes for {_shown(name)}, its shape needs {needed}"
        )
    return begin, end, name, dtype, tuple(shape)


def _laid_out(file_name: str, spans: list[_Span], first: int, held: int) -> dict[str, StoredTensor]:
    tensors, at = {}, 0
    for begin, end, name, dtype, shape in spans:
        if begin != at:
            raise _broken(file_name, f"has {_shown(name)} at byte {begin}, expected {at}")
        if end > held:
            raise _broken(file_name, f"has {_shown(name)} up to byte {end} of {held}")
        tensors[name] = StoredTensor(dtype, shape, first + begin)
        at = end
    if at != held:
        raise _broken(file_name, f"has {held} bytes of data, its tensors take {at}")
    return tensors


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "...")


def _broken(file_name: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{file_name} {what}")
