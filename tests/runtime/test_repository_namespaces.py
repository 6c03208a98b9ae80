"""Laws of names that are in several repositories, with namespaces and without."""

from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    Clock,
    FakeFinder,
    FakeModel,
    Workshop,
    until,
    write_model,
)

from penstock_runtime.errors import InvalidArgument, NotFound
from penstock_runtime.repository.lifecycle import ModelState
from penstock_runtime.repository.loader import Loader
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.repository import ModelRepository


def repository(
    *roots: Path, namespaces: bool = True, mode: ControlMode = ControlMode.EXPLICIT
) -> ModelRepository[FakeModel]:
    clock = Clock()
    options = RepositoryOptions(
        roots=roots,
        control_mode=mode,
        startup_models=("*",) if mode is ControlMode.EXPLICIT else (),
        poll_seconds=600,
        namespaces=namespaces,
    )
    made = ModelRepository(options, Loader(FakeFinder(), Workshop()), clock=clock, wait=clock.wait)
    made.start()
    return made


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """`red` and `blue` have `m` both, and a model of their own each."""
    for name in ("red", "blue"):
        write_model(tmp_path / name, "m", {1: f"of {name}"}, config='{"name": "m"}')
        write_model(tmp_path / name, f"only_{name}", {1: name})
    return tmp_path / "red", tmp_path / "blue"


def test_a_name_in_two_repositories_is_two_models(roots: tuple[Path, Path]) -> None:
    """Called after the repositories' folders; their configurations go on to name the folder."""
    served = repository(*roots)

    assert served.get("red::m").text == "of red"
    assert served.get("blue::m").text == "of blue"
    assert served.get("red::m").config.name == "red::m"


def test_no_two_repositories_have_one_namespace(tmp_path: Path) -> None:
    """Whatever their folders are called: none of the models is lost."""
    roots = [tmp_path / place for place in ("x/a", "y/a", "z/a-2")]
    for root in roots:
        write_model(root, "m", {1: str(root)}, config='{"name": "m"}')

    served = repository(*roots)

    assert sorted(model.text for model in served.models()) == sorted(map(str, roots))
    assert served.get("a-2::m").text == str(roots[2])


def test_a_name_that_is_in_one_repository_is_served_as_it_is(roots: tuple[Path, Path]) -> None:
    """And under no other name."""
    served = repository(*roots)

    assert served.get("only_red").text == "red"
    with pytest.raises(NotFound):
        served.get("red::only_red")


def test_an_ambiguous_name_says_what_it_may_mean(roots: tuple[Path, Path]) -> None:
    """Nobody is served by chance."""
    served = repository(*roots)

    with pytest.raises(InvalidArgument, match="'m' is ambiguous, expected one of blue::m, red::m"):
        served.get("m")


def test_without_namespaces_it_is_served_by_nobody(roots: tuple[Path, Path]) -> None:
    """As ever: which one was meant cannot be known."""
    served = repository(*roots, namespaces=False)

    with pytest.raises(NotFound):
        served.get("m")
    (entry,) = [e for e in served.index() if e.name == "m"]
    assert entry.state is ModelState.UNAVAILABLE
    assert "is in 2 model repositories, expected one" in entry.reason
    assert served.get("only_blue").text == "blue"


def test_each_is_loaded_and_unloaded_by_its_own_name(roots: tuple[Path, Path]) -> None:
    """The other goes on."""
    served = repository(*roots)
    served.unload("red::m")
    until(
        lambda: (
            {e.name for e in served.index(ready_only=True)} == {"blue::m", "only_red", "only_blue"}
        )
    )

    (roots[0] / "m" / "1" / "model.txt").write_text("of red again")
    served.load("red::m")

    assert served.get("red::m").text == "of red again"
    assert served.get("blue::m").text == "of blue"
    assert sorted(e.name for e in served.index()) == ["blue::m", "only_blue", "only_red", "red::m"]


def test_repositories_of_one_folder_name_are_numbered(tmp_path: Path) -> None:
    """In the order in which they were given."""
    for place in ("a", "b"):
        write_model(tmp_path / place / "models", "m", {1: place})

    served = repository(tmp_path / "a" / "models", tmp_path / "b" / "models")

    assert served.get("models::m").text == "a"
    assert served.get("models-2::m").text == "b"


def test_a_second_model_of_a_name_that_appears_later_renames_both(tmp_path: Path) -> None:
    """Polling follows what the repositories say by now."""
    red, blue = tmp_path / "red", tmp_path / "blue"
    write_model(red, "m", {1: "of red"})
    blue.mkdir()
    served = repository(red, blue, mode=ControlMode.POLL)
    assert served.get("m").text == "of red"

    write_model(blue, "m", {1: "of blue"})
    for _ in range(4):
        served.poll()

    assert served.get("blue::m").text == "of blue"
    assert served.get("red::m").text == "of red"
    with pytest.raises(InvalidArgument, match="is ambiguous"):
        served.get("m")
