"""ONNX files that no one should load: each is refused by what it is, and no text tells a path."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.runtime.model_folders import run, start
from tests.runtime.onnx_folders import graph, identity, linear, outside, stored, sums, version

from penstock_runtime.backends.onnx.external import locations
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument, PenstockError

FLOAT = TensorProto.FLOAT
WEIGHTS = np.ones((4, 2), np.float32)


def refused(source: Any, kind: type[PenstockError] = PenstockError) -> str:
    with pytest.raises(kind) as caught:
        start(source)
    text: str = caught.value.message
    assert str(source.root.parent) not in text
    assert "/tmp" not in text
    return text


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\x08" * 50, os.urandom(4096)])
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    """Empty and broken files name the file and what is wrong with it."""
    source = stored(tmp_path, identity(FLOAT))
    (source.directory / "model.onnx").write_bytes(data)

    assert "model.onnx" in refused(source)


def test_a_model_that_was_cut_is_refused(tmp_path: Path) -> None:
    """Half of a file is no model."""
    source = stored(tmp_path, linear(WEIGHTS))
    path = source.directory / "model.onnx"
    path.write_bytes(path.read_bytes()[:-20])

    assert "model.onnx" in refused(source)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "..\\w.bin", "w.bin\0x"]
)
def test_weights_come_from_the_folder_only(location: str, tmp_path: Path) -> None:
    """A location that leaves the version directory is refused before anything is opened."""
    source = stored(tmp_path, outside(linear(WEIGHTS), location))
    (source.root / "w.bin").write_bytes(WEIGHTS.tobytes())

    assert "outside of its folder" in refused(source, InvalidArgument)


def test_a_link_out_of_the_folder_is_no_way_either(tmp_path: Path) -> None:
    """What a link leads to counts."""
    source = stored(tmp_path, outside(linear(WEIGHTS), "w.bin"))
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (source.directory / "w.bin").symlink_to(tmp_path / "secret")

    assert "a link out of its folder" in refused(source, InvalidArgument)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    """The location is told as the model has it."""
    source = stored(tmp_path, outside(linear(WEIGHTS), "gone.bin"))

    assert "'gone.bin', which is not there" in refused(source, InvalidArgument)


def test_weights_that_are_too_short_are_refused(tmp_path: Path) -> None:
    """Nothing is read past the end of a file."""
    source = stored(tmp_path, outside(linear(WEIGHTS), "w.bin"))
    (source.directory / "w.bin").write_bytes(b"12")

    assert "model.onnx" in refused(source)


def test_weights_are_found_wherever_they_hide(tmp_path: Path) -> None:
    """In constants of nodes and in graphs that nodes hold, however deep."""
    tensor = outside(linear(WEIGHTS), "../hidden").graph.initializer[0]
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [])
    for _ in range(5):
        inner = helper.make_graph(
            [helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)],
            "outer",
            [],
            [],
        )
    model = helper.make_model(inner)

    assert locations(model.SerializeToString(), "model.onnx") == {"../hidden"}


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    """A graph that feeds itself ends the load, not the server."""
    cycle = graph(
        [("Add", ["x", "b"], ["a"]), ("Neg", ["a"], ["b"])],
        [("x", FLOAT, (1,))],
        [("b", FLOAT, (1,))],
    )

    assert "model.onnx" in refused(stored(tmp_path, cycle))


def test_operators_that_no_one_knows_are_refused(tmp_path: Path) -> None:
    """A domain of its own needs a library that the configuration names."""
    model = identity(FLOAT)
    model.graph.node[0].domain = "custom"
    model.opset_import.append(helper.make_opsetid("custom", 1))

    assert "Identity" in refused(stored(tmp_path, model))


@pytest.mark.parametrize("name", ["../lib.so", "/lib/x86_64-linux-gnu/libc.so.6", "gone.so"])
def test_libraries_come_from_the_folder_only(name: str, tmp_path: Path) -> None:
    """What op_library_filename names is a file of the version directory, or refused."""
    config = ModelConfig(name="m", extra={"model_operations": {"op_library_filename": [name]}})

    refused(stored(tmp_path, identity(FLOAT), config), InvalidArgument)


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file that is no library of operators ends the load."""
    config = ModelConfig(name="m", extra={"model_operations": {"op_library_filename": ["x.so"]}})
    source = stored(tmp_path, identity(FLOAT), config)
    (source.directory / "x.so").write_bytes(b"no library")

    assert "model.onnx" in refused(source)


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    """A sequence among the outputs cannot be answered with; it may be left out."""
    model = sums()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["a", "b"], ["both"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("both", FLOAT, ("batch", 4)))

    assert "output 'both' is seq(tensor(float))" in refused(stored(tmp_path, model))


def test_what_a_client_causes_names_no_path(tmp_path: Path) -> None:
    """A shape that only the graph can refuse ends that execution, with its own words."""
    model = graph(
        [("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, ("n",)), ("b", FLOAT, ("m",))],
        [("y", FLOAT, (None,))],
    )
    with pytest.raises(PenstockError) as caught:
        run(
            stored(tmp_path, model),
            {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)},
        )

    assert "/" not in caught.value.message.replace("inputs/outputs", "")


@given(st.binary(max_size=300))
def test_any_bytes_are_walked_to_an_end(data: bytes) -> None:
    """The walk over a file either finds locations or says that it is no model."""
    try:
        text = str(locations(data + b"location", "model.onnx"))
    except InvalidArgument as error:
        text = error.message

    assert text == "set()" or "model.onnx is no ONNX model" in text or text.startswith("{")


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_walked_to_an_end(at: int, byte: int) -> None:
    """The same of a model in which one byte is another."""
    data = bytearray(outside(linear(WEIGHTS), "w.bin").SerializeToString())
    data[at % len(data)] = byte

    try:
        found = locations(bytes(data), "model.onnx")
    except InvalidArgument:
        return
    assert all(isinstance(name, str) for name in found)


def test_messages_that_nest_without_end_are_refused() -> None:
    """The depth is bounded, whatever the file claims."""
    data = b"location"
    for _ in range(200):
        data = b"\x32" + onnx_varint(len(data)) + data
        data = b"\x2a" + onnx_varint(len(data)) + data
        data = b"\x0a" + onnx_varint(len(data)) + data
    data = b"\x3a" + onnx_varint(len(data)) + data

    with pytest.raises(InvalidArgument, match="nests deeper"):
        locations(data, "model.onnx")


def onnx_varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_no_folder_is_written_to(tmp_path: Path) -> None:
    """Loading leaves the repository as it is."""
    source = stored(tmp_path, identity(FLOAT))
    before = sorted(path.name for path in tmp_path.rglob("*"))

    start(source)

    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert version(tmp_path / "x").is_dir()
    assert onnx.__version__
