"""Laws of what a load call may bring along."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.errors import InvalidArgument, ResourceExhausted
from penstock_runtime.repository import overrides
from penstock_runtime.repository.overrides import (
    MAX_FILES,
    LoadOverrides,
    OverrideFolder,
    parse_load_parameters,
    parse_unload_parameters,
)

BAD_FILES = [
    "../../x",
    "/etc/passwd",
    "1/../../x",
    "1/a/../../x",
    "1/.",
    "1/..",
    "1//x",
    "1/x/",
    "1/",
    "1",
    "",
    "0/x",
    "01/x",
    "-1/x",
    "one/x",
    "1/a\0b",
    "1/a\nb",
    "1/a\\..\\b",
    "99999999999999999999/x",
]


@pytest.mark.parametrize("path", BAD_FILES)
def test_a_file_can_lie_in_a_versions_folder_only(path: str) -> None:
    """Anything else is refused before a file is written."""
    with pytest.raises(InvalidArgument, match="invalid override file"):
        parse_load_parameters({"config": "{}", f"file:{path}": b"x"})


@given(st.text(max_size=40), st.sampled_from(["", "1/", "1/a/"]))
def test_no_path_that_passes_leads_out_of_its_folder(text: str, prefix: str) -> None:
    """Whatever a caller makes up."""
    root = Path("/private/model")
    try:
        found = LoadOverrides("{}", {prefix + text: b""})
    except InvalidArgument:
        return

    for path in found.files:
        target = root / path
        assert ".." not in target.parts
        assert target.is_relative_to(root)
        assert target.parent != root


def test_good_parameters_become_overrides() -> None:
    """The prefix is taken off the files."""
    found = parse_load_parameters({"config": "{}", "file:1/a/b.pt": b"x", "file:2/c": b""})

    assert found == LoadOverrides("{}", {"1/a/b.pt": b"x", "2/c": b""})
    assert parse_load_parameters({}) == LoadOverrides()
    assert parse_load_parameters({"dry_run": True}) == LoadOverrides(dry_run=True)


def test_files_need_a_configuration() -> None:
    """The one on disk is for the files on disk."""
    with pytest.raises(InvalidArgument, match="need the load parameter 'config'"):
        parse_load_parameters({"file:1/x": b""})


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"confg": "{}"}, "unrecognized load parameter 'confg'"),
        ({"a\nb": "{}"}, r"unrecognized load parameter 'a\\nb'"),
        ({"config": b"{}"}, "invalid value type for load parameter 'config', expected string_p"),
        ({"config": True}, "expected string_param"),
        ({"config": "{}", "file:1/x": "text"}, "'file:1/x', expected bytes_param"),
        ({"dry_run": "true"}, "'dry_run', expected bool_param"),
    ],
)
def test_a_wrong_parameter_is_named(
    parameters: dict[str, bool | int | str | bytes], text: str
) -> None:
    """And what was expected."""
    with pytest.raises(InvalidArgument, match=text):
        parse_load_parameters(parameters)


def test_unloading_has_one_parameter() -> None:
    """A bool, False unless given."""
    assert parse_unload_parameters({}) is False
    assert parse_unload_parameters({"unload_dependents": True}) is True
    with pytest.raises(InvalidArgument, match="expected bool_param"):
        parse_unload_parameters({"unload_dependents": 1})
    with pytest.raises(InvalidArgument, match="unrecognized unload parameter 'x'"):
        parse_unload_parameters({"x": True})


def test_files_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both limits are told."""
    monkeypatch.setattr(overrides, "MAX_TOTAL_BYTES", 10)

    with pytest.raises(InvalidArgument, match="11 bytes, expected at most 10"):
        LoadOverrides("{}", {"1/a": b"123456", "1/b": b"12345"})
    with pytest.raises(InvalidArgument, match=f"expected at most {MAX_FILES}"):
        LoadOverrides("{}", {f"1/{i}": b"" for i in range(MAX_FILES + 1)})


def test_a_file_cannot_be_the_folder_of_another() -> None:
    """One of the two could not be written."""
    with pytest.raises(InvalidArgument, match="'file:1/a/b' lies inside another"):
        LoadOverrides("{}", {"1/a": b"", "1/a/b": b""})


def test_an_overlong_component_is_told_apart() -> None:
    """255 bytes fit, 256 do not, however few characters they are."""
    assert LoadOverrides("{}", {f"1/{'x' * 255}": b""}).overlong is None
    assert LoadOverrides("{}", {f"1/{'x' * 256}": b""}).overlong is not None
    assert LoadOverrides("{}", {f"1/{'ü' * 128}": b""}).overlong is not None
    assert LoadOverrides("{}", {"1/" + "/".join(["x" * 200] * 20): b""}).overlong is not None


def test_files_live_in_a_private_folder_until_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else may look in, and nothing stays behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    home = OverrideFolder({"1/a/b": b"x", "2/c": b"y"})
    private = home.path.parent
    mode = private.stat().st_mode & 0o777
    content = (home.path / "1" / "a" / "b").read_bytes()
    home.close()
    home.close()

    assert private.parent == tmp_path
    assert mode == 0o700
    assert content == b"x"
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_stored_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a temporary folder, and when the disk is full in the middle."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ResourceExhausted, match="cannot be stored: No such file"):
        OverrideFolder({"1/a": b"x"})

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceExhausted, match="No space left"):
        OverrideFolder({"1/a": b"x"})

    assert list(tmp_path.iterdir()) == []
