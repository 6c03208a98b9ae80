"""What the commands are made of: progress, tables, colour, tensors, figures, pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.command import CommandError
from penstock.cli.infer import make_inputs, parse_parameter
from penstock.cli.progress import Progress, bar
from penstock.cli.tensors import as_json, fit, random_tensor, read_tensor, show
from penstock.cli.terminal import Paint, plain, table
from penstock_protos import inference as pb
from penstock_runtime.datatype import DataType

S = 1_000_000_000


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


# -- progress, colour, tables ----------------------------------------------------------------------


def test_a_log_gets_a_line_every_tenth() -> None:
    """Off a terminal there is no bar: whole lines, one per 10 %."""
    out, clock = io.StringIO(), Clock()
    with Progress("copy", 100, stream=out, clock=clock) as progress:
        for done in range(1, 101):
            clock.now += S // 2
            progress.update(done)

    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "copy:  10% 5 s, 45 s left"
    assert lines[-1] == "copy: 100% 50 s"


def test_a_slow_tenth_still_gets_a_line_every_ten_seconds() -> None:
    """Someone who reads the log sees that it is alive."""
    out, clock = io.StringIO(), Clock()
    progress = Progress("copy", 1000, stream=out, clock=clock)
    for done in range(1, 26):
        clock.now += S
        progress.update(done)

    assert len(out.getvalue().splitlines()) == 2


def test_a_quick_task_leaves_a_log_alone() -> None:
    """What is over within a second needs no lines."""
    out, clock = io.StringIO(), Clock()
    with Progress("copy", 100, stream=out, clock=clock) as progress:
        for _ in range(100):
            progress.advance()

    assert out.getvalue() == ""


def test_a_terminal_gets_one_line_that_moves() -> None:
    """On a terminal the line is drawn over itself, and left at the end."""
    out, clock = Screen(), Clock()
    with Progress("copy", 4, stream=out, clock=clock) as progress:
        for _ in range(4):
            clock.now += S
            progress.advance(note="file")

    assert out.getvalue().count("\n") == 1
    assert out.getvalue().count("\r") == 4
    assert "100% 4 s  file" in out.getvalue()


@given(st.floats(-1, 2))
def test_a_bar_is_always_as_wide(share: float) -> None:
    """Whatever the share, the frame stays where it is."""
    assert len(bar(share)) == len(bar(0))


@pytest.mark.parametrize(
    ("stream", "no_color", "painted"),
    [(Screen(), "", True), (Screen(), "1", False), (io.StringIO(), "", False)],
)
def test_colour_is_for_terminals_that_want_it(
    stream: io.StringIO, no_color: str, painted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No colour in files and pipes, and none with NO_COLOR."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")

    assert (Paint(stream)("READY", "green") != "READY") is painted


def test_a_table_aligns_its_columns() -> None:
    """Words stand left, numbers right."""
    text = table(("MODEL", "ROWS"), [("a", "1"), ("bb", "12345")], numbers=(1,))

    assert text == "MODEL   ROWS\na          1\nbb     12345"


def test_text_of_others_cannot_drive_the_terminal() -> None:
    """Control characters of a model's name are shown, not obeyed."""
    assert plain("a\x1b[31mb") == "a\\x1b[31mb"


# -- tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "datatype", "dims", "shape", "values"),
    [
        ("[1,2,3]", DataType.FP32, [-1, 3], (1, 3), [1, 2, 3]),
        ("[[1,2],[3,4]]", DataType.INT8, [2, 2], (2, 2), [1, 2, 3, 4]),
        ("7", DataType.INT64, [1], (1,), [7]),
        ("true", DataType.BOOL, [1], (1,), [True]),
        ("a text", DataType.BYTES, [-1, 1], (1, 1), ["a text"]),
        ('["a","b"]', DataType.BYTES, [-1, 1], (2, 1), ["a", "b"]),
        ("[1.5]", DataType.BF16, [1], (1,), [0x3FC0]),
    ],
)
def test_values_of_the_command_line_become_tensors(
    text: str, datatype: DataType, dims: list[int], shape: tuple[int, ...], values: list[object]
) -> None:
    """JSON and text in the datatype and, where there is an obvious one, the shape of the model."""
    tensor = read_tensor("X", text, datatype, dims)

    assert (tensor.name, tensor.datatype, tensor.shape) == ("X", datatype, shape)
    assert tensor.numpy().reshape(-1).tolist() == values


@pytest.mark.parametrize(
    ("text", "datatype", "says"),
    [
        ("x", DataType.FP32, "neither JSON nor @FILE"),
        ('["x"]', DataType.FP32, "is no FP32 data"),
        ("[1,[2]]", DataType.FP32, "is no FP32 data"),
        ("@no.npz", DataType.FP32, "FP32 data is read from .npy or .json files"),
    ],
)
def test_values_that_are_none_are_refused(text: str, datatype: DataType, says: str) -> None:
    """The error names the input or the file, and what was expected."""
    with pytest.raises(CommandError, match=says):
        read_tensor("X", text, datatype, [-1])


def test_files_become_tensors(tmp_path: Path) -> None:
    """.npy and .json by their content, any other file as its bytes."""
    np.save(tmp_path / "a.npy", np.arange(4))
    (tmp_path / "a.json").write_text("[[0,1,2,3]]")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")

    from_npy = read_tensor("X", f"@{tmp_path}/a.npy", DataType.FP32, [-1, 4])
    from_json = read_tensor("X", f"@{tmp_path}/a.json", DataType.FP32, [-1, 4])
    from_bytes = read_tensor("X", f"@{tmp_path}/a.png", DataType.BYTES, [1])

    np.testing.assert_array_equal(from_npy.numpy(), from_json.numpy())
    assert from_bytes.numpy().tolist() == [b"\x89PNG"]


def test_a_pickle_in_an_npy_file_is_refused(tmp_path: Path) -> None:
    """Reading data never runs code."""
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(CommandError, match=r"no \.npy file of plain data"):
        read_tensor("X", f"@{tmp_path}/a.npy", DataType.FP32, [-1])


@given(st.lists(st.integers(1, 4), max_size=3), st.lists(st.integers(-1, 4), max_size=4))
def test_fitting_never_loses_an_element(shape: list[int], dims: list[int]) -> None:
    """The array keeps its elements in order, and what fits already keeps its shape."""
    array = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)

    fitted = fit(array, dims)

    np.testing.assert_array_equal(fitted.reshape(-1), array.reshape(-1))
    if shape == dims:
        assert fitted.shape == array.shape


@pytest.mark.parametrize("datatype", DataType)
def test_made_up_values_suit_every_datatype(datatype: DataType) -> None:
    """Any input can be made up, printed and written as JSON."""
    tensor = random_tensor("X", datatype, [-1, 3], np.random.default_rng(0))
    array = tensor.numpy()
    if datatype is DataType.BYTES:
        array = np.array([str(item).encode() for item in array.reshape(-1)], dtype=object)

    assert tensor.shape == (1, 3)
    assert show(tensor, array).startswith(f"X  {datatype.value}[1,3]\n")
    assert json.dumps(as_json(tensor, array))


def test_inputs_are_checked_against_the_model() -> None:
    """A wrong name and a missing value say what the model wants."""
    metadata = pb.ModelMetadataResponse(name="m")
    metadata.inputs.add(name="A", datatype="FP32", shape=[-1, 2])

    with pytest.raises(CommandError, match=r"has no input 'B', its inputs are A FP32\[-1,2\]"):
        make_inputs(metadata, {"B": "1"}, made_up=False)
    with pytest.raises(CommandError, match="no input was given"):
        make_inputs(metadata, {}, made_up=False)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("3", 3), ("0.5", 0.5), ("x", "x"), ("[1]", "[1]")]
)
def test_parameters_keep_their_kind(text: str, value: object) -> None:
    """true, false and numbers are sent as such, everything else as text."""
    assert parse_parameter(text) == value
    assert type(parse_parameter(text)) is type(value)
