"""Laws of loading again while the old model serves."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    ALL_VERSIONS,
    Workshop,
    make_repository,
    state,
    until,
    write_model,
)

from penstock_runtime.errors import (
    Internal,
    InvalidArgument,
)


def test_a_failing_reload_keeps_the_old_one_serving(tmp_path: Path) -> None:
    """It is not drained, the index has the reason without a path, the server stays ready."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")

    (folder / "1" / "model.txt").write_text("corrupt")
    with pytest.raises(InvalidArgument) as caught:
        repository.load("m")

    why = "the weights in model.txt are corrupt"
    assert caught.value.message == (
        f"load failed for model 'm': version 1 is at UNAVAILABLE state: {why};"
    )
    assert repository.get("m") is old
    assert not old.drained.is_set()
    assert repository.ready()
    assert state(repository, "m") == {
        "1": ("READY", f"reload failed, the version loaded before serves: {why}")
    }


def test_a_corrupt_new_version_leaves_the_old_version_serving(tmp_path: Path) -> None:
    """Both are in the index; a reload that succeeds clears the reason."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    write_model(tmp_path, "m", {2: "corrupt"})

    with pytest.raises(InvalidArgument):
        repository.load("m")
    failed = state(repository, "m")
    serving = repository.get("m").version
    (folder / "2" / "model.txt").write_text("two")
    repository.load("m")
    until(lambda: state(repository, "m")["1"][0] == "UNAVAILABLE")

    assert failed == {
        "1": ("READY", ""),
        "2": ("UNAVAILABLE", "the weights in model.txt are corrupt"),
    }
    assert serving == 1
    assert repository.get("m").version == 2
    assert state(repository, "m") == {"1": ("UNAVAILABLE", "unloaded"), "2": ("READY", "")}
    assert repository.ready()


def test_a_broken_configuration_on_disk_keeps_the_old_one_serving(tmp_path: Path) -> None:
    """The reason is in the index."""
    folder = write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")
    (folder / "config.json").write_text('{"name": "n"}')

    with pytest.raises(InvalidArgument, match="version 1 is at UNAVAILABLE state: the configur"):
        repository.load("m")

    assert repository.get("m") is old
    assert "for model 'n', expected 'm'" in state(repository, "m")["1"][1]


def test_all_versions_come_or_none(tmp_path: Path) -> None:
    """What came up beside one that failed is stopped again."""
    write_model(tmp_path, "m", {1: "one", 2: "corrupt", 3: "three"}, ALL_VERSIONS)
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path)
    repository.start()

    with pytest.raises(InvalidArgument):
        repository.load("m")

    assert len(workshop.started) == 2
    assert workshop.alive == set()
    assert repository.models() == []
    assert {v: s for v, (s, _) in state(repository, "m").items()} == {
        "1": "UNAVAILABLE",
        "2": "UNAVAILABLE",
        "3": "UNAVAILABLE",
    }
    assert not repository.ready()


def test_versions_that_did_not_change_are_kept(tmp_path: Path) -> None:
    """The same model object serves on; only what changed is loaded."""
    folder = write_model(tmp_path, "m", {1: "one", 2: "two"}, ALL_VERSIONS)
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    first, second = repository.get("m", "1"), repository.get("m", "2")

    repository.load("m")
    unchanged = len(workshop.started)
    (folder / "2" / "model.txt").write_text("deux")
    repository.load("m")
    until(second.stopped.is_set)

    assert unchanged == 2
    assert repository.get("m", "1") is first
    assert repository.get("m", "2").text == "deux"
    assert not first.drained.is_set()
    assert len(workshop.started) == 3


def test_a_version_that_cannot_execute_is_not_kept(tmp_path: Path) -> None:
    """Loading again is how it is healed; until then the server is not ready."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()
    sick = repository.get("m")
    sick.healthy = False
    before = (repository.ready(), repository.healthy)

    repository.load("m")

    assert before == (False, False)
    assert repository.get("m") is not sick
    assert repository.ready()
    assert repository.healthy


def test_a_changed_configuration_reloads_every_version(tmp_path: Path) -> None:
    """A comment's worth of change does not: what counts is what it says."""
    folder = write_model(tmp_path, "m", {1: "one", 2: "two"}, ALL_VERSIONS)
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()

    (folder / "config.json").write_text(f" {ALL_VERSIONS} ")
    repository.load("m")
    reworded = len(workshop.started)
    (folder / "config.json").write_text('{"version_policy": {"all": {}}, "max_batch_size": 2}')
    repository.load("m")

    assert reworded == 2
    assert len(workshop.started) == 4
    assert repository.get("m", "1").config.max_batch_size == 2


def test_files_that_change_while_they_are_loaded_are_not_served(tmp_path: Path) -> None:
    """What was built of them is stopped; files that the model itself adds are its own affair."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")
    (folder / "1" / "model.txt").write_text("two")

    workshop.during = lambda source: (folder / "1" / "model.txt").unlink()
    with pytest.raises(InvalidArgument, match="changed while it was being loaded"):
        repository.load("m")
    kept = repository.get("m")
    (folder / "1" / "model.txt").write_text("three")
    workshop.during = lambda source: (folder / "1" / "cache").touch()
    repository.load("m")
    until(old.stopped.is_set)

    assert kept is old
    assert repository.get("m").text == "three"
    assert workshop.alive == {repository.get("m")}


def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path) -> None:
    """The load fails and the index says why, without saying where it leads."""
    folder = write_model(tmp_path / "r", "m")
    (tmp_path / "secret").write_text("x")
    (folder / "1" / "key").symlink_to(tmp_path / "secret")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path / "r")
    repository.start()

    with pytest.raises(Internal, match="failed to poll"):
        repository.load("m")

    assert workshop.started == []
    assert state(repository, "m")[""] == (
        "UNAVAILABLE",
        "link '1/key' leads out of the model's folder and its repository",
    )


def test_a_load_is_tried_as_often_as_the_operator_says(tmp_path: Path) -> None:
    """One that succeeds at last is a success."""
    write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, retries=2)
    repository.start()
    failures = iter([MemoryError("no room"), SystemExit(3)])

    def fail(_: object) -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    workshop.during = fail
    repository.load("m")

    assert repository.get("m").text == "one"


def test_a_name_never_leads_to_nothing_while_it_is_reloaded(tmp_path: Path) -> None:
    """Readers find the old model or the new one at any moment."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    done = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(repository.get("m").text)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(30):
            (folder / "1" / "model.txt").write_text(f"text {number}")
            repository.load("m")
        done.set()
        for reader in readers:
            reader.result()

    assert repository.get("m").text == "text 29"
    assert seen
    until(lambda: workshop.alive == {repository.get("m")})
