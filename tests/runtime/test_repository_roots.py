"""Laws of several model repositories seen as one."""

import logging
import shutil
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import write_model

from penstock_runtime.errors import FailedPrecondition
from penstock_runtime.repository.roots import RepositoryRoots


def test_models_of_all_roots_are_found(tmp_path: Path) -> None:
    """By look, by name and as names."""
    write_model(tmp_path / "a", "x")
    write_model(tmp_path / "b", "y")
    roots = RepositoryRoots([tmp_path / "a", tmp_path / "b"])

    found = roots.find("y")

    assert set(roots.look().folders) == roots.names() == {"x", "y"}
    assert found is not None
    assert found.repository == tmp_path / "b"


def test_a_model_in_two_roots_has_a_problem(tmp_path: Path) -> None:
    """Nobody could say which one is meant."""
    write_model(tmp_path / "a", "x")
    write_model(tmp_path / "b", "x")
    roots = RepositoryRoots([tmp_path / "a", tmp_path / "b"])

    found = roots.find("x")

    assert found is not None
    assert found.problem == "model 'x' is in 2 model repositories, expected one"
    assert roots.look().folders["x"].problem == found.problem


def test_a_missing_root_is_unseen_not_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once when it goes, and once when it is back."""
    root, away = tmp_path / "r", tmp_path / "away"
    write_model(root, "x")
    roots = RepositoryRoots([root])
    roots.look()

    with caplog.at_level(logging.INFO):
        root.rename(away)
        gone = [roots.look(), roots.look()]
        away.rename(root)
        back = roots.look()

    assert [view.unseen for view in gone] == [{root}, {root}]
    assert set(back.folders) == {"x"}
    assert back.unseen == set()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_what_an_unmounted_root_leaves_behind_is_unseen(tmp_path: Path) -> None:
    """An empty folder under another identity; one that was emptied in place is just empty."""
    root = tmp_path / "r"
    write_model(root, "x")
    roots = RepositoryRoots([root])
    roots.look()

    root.rename(tmp_path / "away")
    root.mkdir()
    unmounted = roots.look()
    root.rmdir()
    (tmp_path / "away").rename(root)
    roots.look()
    shutil.rmtree(root / "x")
    emptied = roots.look()

    assert unmounted.unseen == {root}
    assert emptied.unseen == set()
    assert not emptied.folders


def test_the_same_folder_is_seen_again_after_its_name_leads_elsewhere(tmp_path: Path) -> None:
    """What was loaded is held against what it was loaded from."""
    write_model(tmp_path / "releases", "1")
    write_model(tmp_path / "releases", "2")
    link = tmp_path / "r" / "m"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "releases" / "1")
    roots = RepositoryRoots([link.parent])
    before = roots.find("m")
    assert before is not None

    link.unlink()
    link.symlink_to(tmp_path / "releases" / "2")

    assert roots.again(before) == before
    assert roots.find("m") != before


def test_the_operator_is_told_what_is_wrong_with_a_root(tmp_path: Path) -> None:
    """A root that is not there, and one that is a model without a name."""
    write_model(tmp_path, "m")

    with pytest.raises(FailedPrecondition, match="nowhere' cannot be read: No such file"):
        RepositoryRoots([tmp_path / "nowhere"]).check()
    with pytest.raises(FailedPrecondition, match="--model-name"):
        RepositoryRoots([tmp_path / "m"]).check()
    RepositoryRoots([tmp_path / "m"], "iris").check()
    RepositoryRoots([tmp_path]).check()


def test_a_warning_is_given_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not at every look."""
    (write_model(tmp_path, "m") / "01").mkdir()
    roots = RepositoryRoots([tmp_path])

    for _ in range(3):
        roots.look()

    assert len(caplog.records) == 1
    assert "'m': folder '01' is ignored" in caplog.text
