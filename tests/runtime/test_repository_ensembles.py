"""Laws of the order in which ensembles and what they are made of come and go."""

import json
import shutil
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.repository_fakes import (
    FakeModel,
    Workshop,
    make_repository,
    state,
    until,
    write_model,
)

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.repository.dependencies import affected, in_waves, with_parts
from penstock_runtime.repository.generation import LoadFailed, PollFailed
from penstock_runtime.repository.options import ControlMode
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.repository.repository import ModelRepository


def made_of(*parts: str) -> str:
    """The configuration of an ensemble whose steps are executed one after the other."""
    steps = [
        {"model_name": part, "input_map": {"a": f"t{i}"}, "output_map": {"b": f"t{i + 1}"}}
        for i, part in enumerate(parts)
    ]
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    return json.dumps(
        {
            "platform": "ensemble",
            "input": [{"name": "t0", **tensor}],
            "output": [{"name": f"t{len(parts)}", **tensor}],
            "ensemble_scheduling": {"step": steps},
        }
    )


def serving(repository: ModelRepository[FakeModel]) -> list[str]:
    """The names of what serves."""
    return [model.config.name for model in repository.models()]


@given(
    st.dictionaries(
        st.sampled_from("abcdefg"), st.sets(st.sampled_from("abcdefgxyz")).map(tuple), max_size=7
    )
)
def test_waves_hold_each_model_once_after_its_parts(graph: dict[str, Collection[str]]) -> None:
    """Those in a circle, and what is made of them, come together in the last one."""
    waves = in_waves(graph)

    placed = [name for wave in waves for name in wave]
    assert sorted(placed) == sorted(graph)
    before: set[str] = set()
    for wave in waves:
        fed = all(set(graph[name]) & graph.keys() <= before for name in wave)
        assert fed or wave is waves[-1]
        before |= set(wave)


def test_parts_are_found_however_deep_and_in_circles() -> None:
    """Each is looked at once; what changes affects whatever is made of it."""
    graph = {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ("a",), "e": ("d",), "f": ("x",)}

    found = with_parts(["a"], lambda name: graph.get(name, ()))

    assert set(found) == {"a", "b", "c", "d"}
    assert affected({"x"}, graph) == {"f"}
    assert affected({"d"}, {n: p for n, p in graph.items() if n in "abe"}) == {"a", "b", "e"}


@pytest.mark.parametrize("mode", list(ControlMode))
def test_at_the_start_parts_are_loaded_before_the_ensemble(
    tmp_path: Path, mode: ControlMode
) -> None:
    """In every mode; in the explicit one also those that nobody named."""
    write_model(tmp_path, "a", config=made_of("b"))
    write_model(tmp_path, "b", config=made_of("z"))
    write_model(tmp_path, "z")
    workshop = Workshop()
    startup = ("a",) if mode is ControlMode.EXPLICIT else ()
    repository = make_repository(workshop, tmp_path, mode=mode, startup=startup)

    failures = repository.start()
    repository.stop(10)

    assert failures == ()
    assert [name for name, _, _ in workshop.started] == ["z", "b", "a"]


def test_a_part_that_is_not_there_is_not_listed(tmp_path: Path) -> None:
    """The ensemble says what it misses; an index does not list what never was."""
    write_model(tmp_path, "a", config=made_of("ghost"))
    repository = make_repository(Workshop(), tmp_path, startup=("a",))

    repository.start()

    assert state(repository, "ghost") == {}


def test_an_ensemble_in_a_circle_says_so(tmp_path: Path) -> None:
    """At the start and at a load, also where the caller's configuration makes the circle."""
    write_model(tmp_path, "a", config=made_of("b"))
    write_model(tmp_path, "b", config=made_of("a"))
    write_model(tmp_path, "plain")
    repository = make_repository(Workshop(), tmp_path, startup=("*",))
    failures = repository.start()

    with pytest.raises(LoadFailed, match="ensemble 'a' contains itself: a -> b -> a"):
        repository.load("a")
    with pytest.raises(PollFailed):
        repository.load("b", LoadOverrides(made_of("a")))

    assert "b -> a -> b" in state(repository, "b")["1"][1]
    assert [failure.name for failure in failures] == ["a", "b"]
    assert "ensemble 'b' contains itself: b -> a -> b" in failures[1].reason
    assert serving(repository) == ["plain"]


def test_a_load_brings_what_is_missing(tmp_path: Path) -> None:
    """Deepest first; what serves already is left as it is."""
    write_model(tmp_path, "whole", config=made_of("inner", "there"))
    write_model(tmp_path, "inner", config=made_of("deep"))
    write_model(tmp_path, "deep")
    write_model(tmp_path, "there")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("there",))
    repository.start()
    there = repository.get("there")

    repository.load("whole")

    assert [name for name, _, _ in workshop.started] == ["there", "deep", "inner", "whole"]
    assert repository.get("there") is there


def test_a_load_with_a_configuration_brings_what_that_names(tmp_path: Path) -> None:
    """Not what the file says."""
    write_model(tmp_path, "whole", config=made_of("filed"))
    write_model(tmp_path, "filed")
    write_model(tmp_path, "called")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    repository.load("whole", LoadOverrides(made_of("called")))

    assert serving(repository) == ["called", "whole"]


def test_a_part_that_does_not_load_does_not_keep_the_others(tmp_path: Path) -> None:
    """The ensemble's own load tells what it misses (here nobody looks)."""
    write_model(tmp_path, "whole", config=made_of("bad", "good"))
    write_model(tmp_path, "bad", {1: "corrupt"})
    write_model(tmp_path, "good")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    repository.load("whole")

    assert serving(repository) == ["good", "whole"]
    assert "corrupt" in state(repository, "bad")["1"][1]


def test_what_another_ensemble_is_made_of_stays(tmp_path: Path) -> None:
    """An unload with dependents takes the rest."""
    write_model(tmp_path, "one", config=made_of("own", "common"))
    write_model(tmp_path, "two", config=made_of("common"))
    write_model(tmp_path, "own")
    write_model(tmp_path, "common")
    repository = make_repository(Workshop(), tmp_path, startup=("*",))
    repository.start()

    repository.unload("one", unload_dependents=True)

    assert serving(repository) == ["common", "two"]


def test_parts_go_when_the_ensemble_has_answered(tmp_path: Path) -> None:
    """Requests under way in it still need them."""
    write_model(tmp_path, "whole", config=made_of("part"))
    write_model(tmp_path, "part")
    repository = make_repository(Workshop(), tmp_path, startup=("*",))
    repository.start()
    whole = repository.get("whole")
    whole.may_drain.clear()
    unloading = threading.Thread(target=repository.unload, args=("whole", True))

    unloading.start()
    until(lambda: "whole" not in serving(repository))
    meanwhile = serving(repository)
    whole.may_drain.set()
    unloading.join(10)

    assert meanwhile == ["part"]
    assert serving(repository) == []


def test_at_the_end_ensembles_go_before_what_they_are_made_of(tmp_path: Path) -> None:
    """However they are nested."""
    write_model(tmp_path, "a_part")
    write_model(tmp_path, "inner", config=made_of("a_part"))
    write_model(tmp_path, "whole", config=made_of("inner", "a_part"))
    repository = make_repository(Workshop(), tmp_path, startup=("*",))
    repository.start()
    models = {model.config.name: model for model in repository.models()}
    models["whole"].may_drain.clear()
    stopping = threading.Thread(target=repository.stop, args=(10,))

    stopping.start()
    until(lambda: "whole" not in serving(repository))
    meanwhile = serving(repository)
    models["whole"].may_drain.set()
    stopping.join(10)

    assert meanwhile == ["a_part", "inner"]
    assert all(model.stopped.is_set() for model in models.values())


def test_an_ensemble_that_failed_is_tried_again_when_a_part_is_new(tmp_path: Path) -> None:
    """While polling, though nothing in its own folder has changed; as are those around it."""
    write_model(tmp_path, "outer", config=made_of("whole"))
    write_model(tmp_path, "whole", config=made_of("part"))
    write_model(tmp_path, "part", {1: "corrupt"})
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, mode=ControlMode.POLL)

    def needs_parts(source: ModelSource) -> None:
        for step in getattr(source.config.ensemble_scheduling, "step", ()):
            repository.get(step.model_name)

    workshop.during = needs_parts
    failures = [failure.name for failure in repository.start()]
    repository.poll()
    nothing_new = serving(repository)

    (tmp_path / "part" / "1" / "model.txt").write_text("mended")
    repository.poll()

    assert failures == ["outer", "part", "whole"]
    assert nothing_new == []
    assert serving(repository) == ["outer", "part", "whole"]
    repository.stop(10)


def test_an_ensemble_and_its_parts_that_are_gone_go_in_order(tmp_path: Path) -> None:
    """As at the end."""
    write_model(tmp_path, "part")
    write_model(tmp_path, "whole", config=made_of("part"))
    write_model(tmp_path, "stays")
    repository = make_repository(Workshop(), tmp_path, mode=ControlMode.POLL)
    repository.start()
    shutil.rmtree(tmp_path / "part")
    shutil.rmtree(tmp_path / "whole")

    repository.poll()
    before = serving(repository)
    repository.poll()

    assert before == ["part", "stays", "whole"]
    assert serving(repository) == ["stays"]
    repository.stop(10)
