"""Laws of what a model repository holds."""

import os
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import write_model

from penstock_runtime.repository.index import (
    ModelFolder,
    is_bare,
    model_names,
    parse_version,
    scan,
    scan_model,
)


def only(root: Path, name: str = "m") -> ModelFolder:
    """The model of this name, which is there."""
    folder = scan_model(root, name)
    assert folder is not None
    return folder


def test_models_are_folders_with_a_configuration_or_a_version(tmp_path: Path) -> None:
    """What is neither is not listed."""
    write_model(tmp_path, "a", {1: "x", 10: "x", 9: "x"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.pbtxt").write_text("")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README").write_text("")

    found = scan(tmp_path)

    assert list(found) == ["a", "b"] == sorted(model_names(tmp_path))
    assert found["a"].versions == (1, 9, 10)
    assert found["b"].versions == ()


@pytest.mark.parametrize("name", ["01", "0", "-1", "+1", "v1", "1.5", "٣", "99999999999999999999"])
def test_a_version_is_a_positive_integer_without_leading_zeros(tmp_path: Path, name: str) -> None:
    """Any other folder is ignored with a warning that names it."""
    folder = write_model(tmp_path, "m")
    (folder / name).mkdir()

    found = only(tmp_path)

    assert found.versions == (1,)
    assert name in found.warnings[0]
    assert parse_version(name) is None


def test_side_folders_and_clutter_are_no_versions_and_no_news(tmp_path: Path) -> None:
    """Warm-up data counts as content; caches, hidden files and swap files do not; none warns."""
    folder = write_model(tmp_path, "m")
    for name in ("warmup", "initial_state", "configs"):
        (folder / name).mkdir()
    before = only(tmp_path)
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_text("x")
    for name in (".model.txt.swp", "model.txt~", "#model.txt#", ".part"):
        (folder / "1" / name).write_text("x")

    after = only(tmp_path)

    assert after.signature == before.signature
    assert after.warnings == ()
    assert after.versions == (1,)


def test_any_change_of_a_file_changes_the_signature(tmp_path: Path) -> None:
    """Size, time, a new inode of equal size and time, a new file, a file that went."""
    folder = write_model(tmp_path, "m")
    file = folder / "1" / "model.txt"
    stamps = os.stat(file)
    seen = [only(tmp_path).signature]

    file.write_text("longer")
    seen.append(only(tmp_path).signature)
    os.utime(file, ns=(1, 1))
    seen.append(only(tmp_path).signature)
    fresh = folder / "1" / "fresh"
    fresh.write_text("longer")
    seen.append(only(tmp_path).signature)
    os.utime(fresh, ns=(1, 1))
    fresh.replace(file)
    seen.append(only(tmp_path).signature)
    file.unlink()
    seen.append(only(tmp_path).signature)

    assert stamps.st_size > 0
    assert len(set(seen)) == len(seen)


def test_a_version_is_signed_by_what_it_may_read(tmp_path: Path) -> None:
    """Its own files and the shared ones count; other versions and the configuration do not."""
    folder = write_model(tmp_path, "m", {1: "x", 2: "x"}, "{}")
    before = only(tmp_path)
    (folder / "2" / "model.txt").write_text("other")
    (folder / "config.json").write_text('{"backend": "fake"}')
    other = only(tmp_path)
    (folder / "labels.txt").write_text("cat")
    shared = only(tmp_path)

    assert other.version_signature(1) == before.version_signature(1)
    assert other.version_signature(2) != before.version_signature(2)
    assert shared.version_signature(1) != before.version_signature(1)


def test_the_named_configuration_is_taken_where_it_exists(tmp_path: Path) -> None:
    """configs/<name>.pbtxt before config.pbtxt before config.json."""
    folder = write_model(tmp_path, "m", config="{}")
    (folder / "config.pbtxt").write_text("")
    (folder / "configs").mkdir()
    (folder / "configs" / "gpu.pbtxt").write_text("")

    plain = only(tmp_path).config_path
    named = scan(tmp_path, config_name="gpu")["m"].config_path
    missing = scan(tmp_path, config_name="tpu")["m"].config_path

    assert plain == missing == folder / "config.pbtxt"
    assert named == folder / "configs" / "gpu.pbtxt"


def test_a_root_that_is_one_model_goes_by_the_operators_name(tmp_path: Path) -> None:
    """Version folders or the bare files: both are one model; files alone are version 1."""
    versioned, flat = tmp_path / "v", tmp_path / "f"
    write_model(tmp_path, "v", {1: "x", 3: "x"})
    flat.mkdir()
    (flat / "weights.pt").write_text("x")

    first = scan(versioned, model_name="iris")
    second = scan(flat, model_name="iris")

    assert list(first) == list(second) == ["iris"]
    assert first["iris"].versions == (1, 3)
    assert first["iris"].directory(3) == versioned / "3"
    assert second["iris"].versions == (1,)
    assert second["iris"].directory(1) == flat
    assert scan_model(flat, "iris", model_name="iris") == second["iris"]
    assert scan_model(flat, "f", model_name="iris") is None
    assert is_bare(versioned)


def test_a_root_of_models_stays_one_whatever_the_operator_calls_it(tmp_path: Path) -> None:
    """A repository mounted where one model was expected keeps its names."""
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")

    found = scan(tmp_path, model_name="iris")

    assert list(found) == ["a", "b"]


def test_a_link_may_lead_anywhere_inside_the_repository_and_no_further(tmp_path: Path) -> None:
    """A link out of it, to a file or a folder, is a problem that names no path outside."""
    repository, outside = tmp_path / "r", tmp_path / "secret"
    folder = write_model(repository, "m")
    (repository / "shared").mkdir()
    (repository / "shared" / "w").write_text("x")
    (folder / "1" / "w").symlink_to("../../shared/w")
    inside = only(repository)
    outside.mkdir()
    (outside / "w").write_text("x")
    (folder / "1" / "weights").symlink_to(outside)

    escaped = only(repository)

    assert inside.problem == ""
    assert "1/weights" in escaped.problem
    assert "secret" not in escaped.problem


def test_a_models_own_folder_may_be_a_link_out_of_the_repository(tmp_path: Path) -> None:
    """It is how releases are swapped; its content is then confined to the folder it leads to."""
    release = write_model(tmp_path / "releases", "42")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "m").symlink_to(release)

    found = only(tmp_path / "r")

    assert found.problem == ""
    assert found.root == release
    assert found.directory(1) == release / "1"


def test_loops_of_links_end(tmp_path: Path) -> None:
    """A link to a folder above adds nothing; a link to itself is not a model."""
    folder = write_model(tmp_path, "m")
    (folder / "1" / "up").symlink_to(folder)
    (tmp_path / "self").symlink_to("self")

    found = scan(tmp_path)

    assert list(found) == ["m"]
    assert found["m"].problem == ""


def test_what_is_no_file_is_a_problem(tmp_path: Path) -> None:
    """Reading a pipe would never end."""
    folder = write_model(tmp_path, "m")
    os.mkfifo(folder / "1" / "pipe")

    assert "1/pipe" in only(tmp_path).problem


@pytest.mark.parametrize("name", [".hidden", "x" * 300, "nothing", "__pycache__"])
def test_a_name_without_a_folder_finds_nothing(tmp_path: Path, name: str) -> None:
    """However odd the name is."""
    write_model(tmp_path, "m")

    assert scan_model(tmp_path, name) is None


def test_the_time_of_the_latest_change_is_that_of_the_youngest_content(tmp_path: Path) -> None:
    """A copy that keeps old times is young; a rename of the whole folder is not a change."""
    folder = write_model(tmp_path, "m")
    file = folder / "1" / "model.txt"
    os.utime(file, ns=(1, 1))
    os.utime(folder / "1", ns=(1, 1))
    copied = only(tmp_path).newest_ns
    folder.rename(tmp_path / "n")

    renamed = only(tmp_path, "n").newest_ns

    assert copied == renamed == os.stat(tmp_path / "n" / "1" / "model.txt").st_ctime_ns
