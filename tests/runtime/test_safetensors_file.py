"""Laws of safetensors files: what the reference writer wrote is read exactly, and a header that
lies is refused before anything is allocated.
"""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from penstock_runtime.backends.safetensors_file import MAX_HEADER, read_header
from penstock_runtime.backends.torch_program import read_safetensors
from penstock_runtime.errors import InvalidArgument

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int64,
    torch.bool,
    torch.float8_e4m3fn,
]
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def written(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    """A file with this header (an object or its text) that may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@SLOW
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
)
def test_what_the_reference_writer_wrote_is_read_exactly(
    tmp_path: Path, shapes: list[list[int]], dtype: torch.dtype
) -> None:
    """Every dtype and shape, empty ones too."""
    state = {f"t{i}": torch.randint(0, 2, shape).to(dtype) for i, shape in enumerate(shapes)}
    save_file(state, tmp_path / "w.safetensors", metadata={"format": "pt"})

    found = read_safetensors(tmp_path / "w.safetensors")

    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert found[name].flatten().view(torch.uint8).equal(tensor.flatten().view(torch.uint8))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"a": entry(offsets=(0, 4))}, "has 4 bytes for 'a', its shape needs 8"),
        ({"a": entry(shape=(3,))}, "its shape needs 12"),
        ({"a": entry("F64")}, "its shape needs 16"),
        ({"a": entry("P99")}, "unknown dtype 'P99' for 'a'"),
        ({"a": entry(shape=(1 << 62, 1 << 62))}, "its shape needs"),
        ({"a": entry(shape=(1 << 63,))}, "has no shape for 'a'"),
        ({"a": entry(shape=(-2,))}, "has no shape for 'a'"),
        ({"a": entry(shape=(True, 2))}, "has no shape for 'a'"),
        ({"a": entry(shape=(1,) * 33)}, "has no shape for 'a'"),
        ({"a": entry(offsets=(8, 16))}, "at byte 8, expected 0"),
        ({"a": entry(offsets=(8, 0))}, "has -8 bytes for 'a'"),
        ({"a": entry(offsets=(0, 8, 9))}, "has no data_offsets for 'a'"),
        ({"a": entry(), "b": entry()}, "has 'b' at byte 0, expected 8"),
        ({"a": entry(shape=(4,), offsets=(0, 16))}, "up to byte 16 of 8"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "has 8 bytes of data, its tensors take 4"),
        ({}, "has 8 bytes of data, its tensors take 0"),
        ({"a": 3}, "has no dtype, shape and data_offsets for 'a'"),
        ([], "no JSON object"),
        (b"{", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b'{"a":1,"a":1}', "a name stands there twice"),
    ],
)
def test_a_header_that_lies_is_refused_by_what_is_wrong(
    tmp_path: Path, header: Any, expected: str
) -> None:
    """Dtype, shape, offsets, overlaps, holes, duplicates and nesting are held against the file."""
    path = written(tmp_path / "w.safetensors", header)

    with pytest.raises(InvalidArgument, match=expected):
        read_header(path)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, MAX_HEADER + 1, 1000])
def test_a_claimed_length_allocates_nothing(tmp_path: Path, length: int) -> None:
    """The header's length is held against a limit and the file before a byte is read."""
    path = written(tmp_path / "w.safetensors", {}, length=length)
    tracemalloc.start()

    with pytest.raises(InvalidArgument, match=f"claims a header of {length} bytes"):
        read_header(path)

    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_header_of_100_mb_is_refused_unread(tmp_path: Path) -> None:
    """Also when the bytes are really there."""
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_000))
        file.truncate(100_000_008)

    with pytest.raises(InvalidArgument, match="claims a header of 100000000 bytes"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 7])
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, data: bytes) -> None:
    """Eight bytes is the least."""
    (tmp_path / "w").write_bytes(data)

    with pytest.raises(InvalidArgument, match=f"has {len(data)} bytes"):
        read_header(tmp_path / "w")


@SLOW
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes are changed or cut, the reader raises InvalidArgument or reads tensors that
    lie inside the file.
    """
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        found = read_header(path)
    except InvalidArgument:
        found = {}

    assert all(t.start + t.nbytes <= path.stat().st_size for t in found.values())
