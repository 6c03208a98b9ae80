"""Laws of loading by looking at the files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    HOUR_NS,
    Clock,
    FakeModel,
    Workshop,
    make_repository,
    write_model,
)

from penstock_runtime.repository.lifecycle import ModelState
from penstock_runtime.repository.options import ControlMode
from penstock_runtime.repository.repository import ModelRepository


class Polled:
    """A polling repository in which every change looks young unless the clock says otherwise."""

    def __init__(self, *roots: Path) -> None:
        for root in roots:
            root.mkdir(exist_ok=True)
        self.workshop = Workshop()
        self.clock = Clock()
        self.repository: ModelRepository[FakeModel] = make_repository(
            self.workshop, *roots, mode=ControlMode.POLL, clock=self.clock
        )

    def start(self) -> None:
        self.repository.start()
        self.clock.ahead_ns = 0

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.repository.poll()

    @property
    def texts(self) -> list[str]:
        return [model.text for model in self.repository.models()]


@pytest.fixture
def polled(tmp_path: Path) -> Iterator[Polled]:
    """One that has a model called m, version 1, "one"."""
    write_model(tmp_path / "r", "m")
    polled = Polled(tmp_path / "r")
    polled.start()
    yield polled
    polled.repository.stop(10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Its repository."""
    return tmp_path / "r"


def test_what_does_not_change_is_not_loaded_again(polled: Polled) -> None:
    """However often one looks."""
    polled.poll(5)

    assert len(polled.workshop.started) == 1


def test_a_half_copied_model_is_never_loaded(polled: Polled, root: Path) -> None:
    """Configuration first, then pieces, then nothing more: exactly one load, of the whole."""
    (root / "n").mkdir()
    (root / "n" / "config.json").write_text("{}")
    polled.poll()
    (root / "n" / "1").mkdir()
    for piece in ("a", "ab", "abc", "abcd"):
        (root / "n" / "1" / "model.txt").write_text(piece)
        polled.poll()
    before = list(polled.texts)

    polled.poll(4)

    assert before == ["one"]
    assert polled.texts == ["one", "abcd"]
    assert [text for name, _, text in polled.workshop.started if name == "n"] == ["abcd"]


def test_a_change_is_loaded_at_the_second_equal_look(polled: Polled, root: Path) -> None:
    """The old model serves until then."""
    (root / "m" / "1" / "model.txt").write_text("two")
    polled.poll()
    first = list(polled.texts)

    polled.poll()

    assert first == ["one"]
    assert polled.texts == ["two"]


def test_what_was_renamed_into_place_is_loaded_at_once(polled: Polled, root: Path) -> None:
    """A whole model, and a whole version of one; nothing in them is young."""
    write_model(root, ".n")
    write_model(root, "m/.2", {1: "two"})
    polled.clock.ahead_ns = HOUR_NS
    (root / ".n").rename(root / "n")
    (root / "m" / ".2" / "1").rename(root / "m" / "2")

    polled.poll()

    assert polled.texts == ["two", "one"]


def test_a_link_that_was_swapped_is_loaded_at_once(tmp_path: Path) -> None:
    """From the release it led to, wherever it leads meanwhile."""
    for release in ("1", "2"):
        write_model(tmp_path / "releases", release, {1: f"release {release}"})
    link = tmp_path / "r" / "m"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "releases" / "1")
    polled = Polled(link.parent)
    polled.start()
    polled.clock.ahead_ns = HOUR_NS

    fresh = tmp_path / "r" / ".fresh"
    fresh.symlink_to(tmp_path / "releases" / "2")
    fresh.replace(link)
    polled.poll()

    assert polled.texts == ["release 2"]
    assert polled.repository.get("m").source.root == tmp_path / "releases" / "2"
    polled.repository.stop(10)


def test_a_failing_reload_is_tried_again_when_the_files_change(polled: Polled, root: Path) -> None:
    """Not at every look; the old version serves all the while."""
    file = root / "m" / "1" / "model.txt"
    file.write_text("corrupt")
    polled.poll(5)
    failed = polled.repository.index()[0]
    file.write_text("two")
    old = list(polled.texts)

    polled.poll(2)

    assert failed.state is ModelState.READY
    assert "corrupt" in failed.reason
    assert old == ["one"]
    assert polled.texts == ["two"]
    assert polled.repository.index()[0].reason == ""


def test_a_model_that_is_gone_twice_is_unloaded(polled: Polled, root: Path) -> None:
    """Requests under way are answered first; the index keeps it, the server stays ready."""
    model = polled.repository.get("m")
    shutil.rmtree(root / "m")
    polled.poll()
    once = list(polled.texts)

    polled.poll()
    model.stopped.wait(10)
    polled.repository.stop(10)

    assert once == ["one"]
    assert polled.texts == []
    assert model.drained.is_set()
    entry = polled.repository.index()[0]
    assert (entry.name, entry.state.value, entry.reason) == ("m", "UNAVAILABLE", "unloaded")
    assert polled.repository.ready()


def test_a_model_that_comes_back_is_loaded_again(polled: Polled, root: Path) -> None:
    """As it is then."""
    (root / "m").rename(root / ".away")
    polled.poll(3)
    gone = list(polled.texts)
    (root / ".away").rename(root / "m")

    polled.poll(3)

    assert gone == []
    assert polled.texts == ["one"]


def test_a_swap_by_two_renames_does_not_unload(polled: Polled, root: Path) -> None:
    """A look between the two finds nothing, and thinks nothing of it."""
    write_model(root, ".next", {1: "two"})
    model = polled.repository.get("m")

    (root / "m").rename(root / ".last")
    polled.poll()
    between = list(polled.texts)
    (root / ".next").rename(root / "m")
    polled.poll(2)

    assert between == ["one"]
    assert polled.texts == ["two"]
    assert model.stopped.wait(10)


def test_a_root_that_vanishes_unloads_nothing(polled: Polled, root: Path) -> None:
    """Nor does its return reload anything; the watch goes on."""
    model = polled.repository.get("m")
    root.rename(root.with_name("away"))
    polled.poll(3)
    away = list(polled.texts)
    root.with_name("away").rename(root)
    polled.poll(2)
    back = polled.repository.get("m")
    write_model(root, "n")
    polled.poll(2)

    assert away == ["one"]
    assert back is model
    assert polled.texts == ["one", "one"]
    assert polled.repository.ready()


def test_an_unmounted_root_unloads_nothing(polled: Polled, root: Path) -> None:
    """What is left of it is an empty folder."""
    root.rename(root.with_name("away"))
    root.mkdir()

    polled.poll(3)

    assert polled.texts == ["one"]


def test_a_version_that_vanishes_gives_way_to_the_next(polled: Polled, root: Path) -> None:
    """And is forgotten; a model that lost its last one serves on with the reason."""
    write_model(root, "m", {2: "two"})
    polled.poll(2)
    both = list(polled.texts)
    shutil.rmtree(root / "m" / "2")
    polled.poll(2)
    back = list(polled.texts)
    shutil.rmtree(root / "m" / "1")
    (root / "m" / "config.json").write_text("{}")
    polled.poll(2)

    assert both == ["two"]
    assert back == ["one"]
    assert polled.texts == ["one"]
    reasons = {e.version: e.reason for e in polled.repository.index()}
    assert "no version that the version policy serves" in reasons["1"]


def test_a_configuration_that_vanishes_is_a_change_like_any_other(
    polled: Polled, root: Path
) -> None:
    """The model is loaded with what it knows by itself."""
    (root / "m" / "config.json").write_text('{"max_batch_size": 4}')
    polled.poll(2)
    with_file = polled.repository.get("m").config.max_batch_size
    (root / "m" / "config.json").unlink()

    polled.poll(2)

    assert with_file == 4
    assert polled.repository.get("m").config.max_batch_size == 0


def test_a_second_repository_with_the_same_name_changes_nothing_that_serves(
    tmp_path: Path,
) -> None:
    """The index tells of the clash until it is over."""
    write_model(tmp_path / "r", "m")
    polled = Polled(tmp_path / "r", tmp_path / "s")
    polled.start()
    model = polled.repository.get("m")

    write_model(tmp_path / "s", "m", {1: "other"})
    polled.poll(2)
    clash = polled.repository.index()[0]
    shutil.rmtree(tmp_path / "s" / "m")
    polled.poll(2)

    assert clash.state is ModelState.READY
    assert "in 2 model repositories" in clash.reason
    assert polled.repository.get("m") is model
    assert polled.repository.index()[0].reason == ""
    polled.repository.stop(10)


def test_one_model_that_fails_keeps_no_other_from_loading(polled: Polled, root: Path) -> None:
    """All news of one look are acted on."""
    write_model(root, "bad", {1: "corrupt"})
    write_model(root, "good", {1: "good"})

    polled.poll(2)

    assert polled.texts == ["good", "one"]
    assert not polled.repository.ready()


def test_what_a_model_writes_into_its_folder_does_not_reload_it_for_ever(
    polled: Polled, root: Path
) -> None:
    """A cache that is written once causes one reload at most."""
    cache = root / "m" / "1" / "cache"

    def write_once(_: object) -> None:
        if not cache.exists():
            cache.write_text("x")

    polled.workshop.during = write_once
    (root / "m" / "1" / "model.txt").write_text("two")

    polled.poll(10)

    assert polled.texts == ["two"]
    assert len(polled.workshop.started) <= 3
