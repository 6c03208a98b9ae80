"""Laws of the way out: unloading, draining, and many callers at once."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    Workshop,
    make_repository,
    state,
    until,
    write_model,
)

from penstock_runtime.errors import (
    InvalidArgument,
    NotFound,
    Unavailable,
)


def test_a_good_reload_swaps_and_the_old_one_drains_after(tmp_path: Path) -> None:
    """The new one serves before the old one has answered everything."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")
    old.may_drain.clear()

    (folder / "1" / "model.txt").write_text("two")
    repository.load("m")

    assert repository.get("m").text == "two"
    assert not old.stopped.is_set()
    assert state(repository, "m") == {"1": ("READY", "")}
    old.may_drain.set()
    assert old.stopped.wait(10)
    assert old.drained.is_set()
    assert workshop.alive == {repository.get("m")}


def test_an_unloaded_model_refuses_and_gives_its_memory_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At once for new requests, after the last answer for the rest; the log says how much."""
    write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    model = repository.get("m")
    model.may_drain.clear()

    with caplog.at_level(logging.INFO):
        repository.unload("m")
        with pytest.raises(NotFound, match="'m' has no available versions"):
            repository.get("m")
        draining = state(repository, "m")
        model.may_drain.set()
        until(lambda: "was unloaded" in caplog.text)

    assert draining == {"1": ("UNLOADING", "")}
    assert state(repository, "m") == {"1": ("UNAVAILABLE", "unloaded")}
    assert workshop.alive == set()
    assert repository.ready()
    assert "model 'm': version 1 was unloaded; it held 3.0 MiB on cpu; resident" in caplog.text


def test_a_drain_that_takes_too_long_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is stopped all the same, and the log says so."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",), drain_timeout_s=0.01)
    repository.start()
    model = repository.get("m")
    model.may_drain.clear()

    repository.unload("m")
    until(lambda: state(repository, "m")["1"][1] == "unloaded")

    assert model.stopped.is_set()
    assert "still had requests after 0.0 s" in caplog.text


def test_unloading_what_does_not_serve_changes_nothing_but_the_reason(tmp_path: Path) -> None:
    """An unknown model stays unknown; a failed one is no longer waited for."""
    write_model(tmp_path, "m", {1: "corrupt"})
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()
    before = repository.ready()

    repository.unload("x")
    repository.unload("m")

    assert not before
    assert repository.ready()
    assert state(repository, "x") == {}
    assert state(repository, "m") == {"1": ("UNAVAILABLE", "unloaded")}


def test_a_load_during_the_drain_wins(tmp_path: Path) -> None:
    """The end of the old drain does not unload the new model."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")
    old.may_drain.clear()

    repository.unload("m")
    repository.load("m")
    old.may_drain.set()
    until(old.stopped.is_set)
    repository.stop(10)

    assert state(repository, "m")["1"] == ("UNAVAILABLE", "unloaded")
    assert old.drained.is_set()


def test_an_ensembles_models_go_with_it_when_asked(tmp_path: Path) -> None:
    """And stay when not."""
    step = '{"model_name": "part", "input_map": {"a": "x"}, "output_map": {"b": "y"}}'
    tensors = (
        '"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}], '
        '"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}]'
    )
    config = f'{{"platform": "ensemble", "ensemble_scheduling": {{"step": [{step}]}}, {tensors}}}'
    write_model(tmp_path, "whole", config=config)
    write_model(tmp_path, "part")
    repository = make_repository(Workshop(), tmp_path, startup=("*",))
    failures = repository.start()

    repository.unload("whole")
    kept = repository.get("part").version
    repository.load("whole")
    repository.unload("whole", unload_dependents=True)

    assert failures == ()
    assert kept == 1
    assert repository.models() == []


def test_fifty_callers_at_once_leave_what_the_last_one_wanted(tmp_path: Path) -> None:
    """Loads and unloads of one model take turns; no copy of it is left behind."""
    folder = write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("m",))
    repository.start()
    writing = threading.Lock()

    def act(number: int) -> None:
        if number % 2:
            repository.unload("m")
            return
        with writing:
            fresh = folder / "1" / ".fresh"
            fresh.write_text(f"text {number}")
            fresh.replace(folder / "1" / "model.txt")
        # Another writer may change the file in the middle of this load, which is then refused.
        with suppress(InvalidArgument):
            repository.load("m")

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(act, range(50)))
    repository.load("m")
    last = repository.get("m")
    until(lambda: workshop.alive == {last})
    repository.unload("m")
    until(lambda: state(repository, "m") == {"1": ("UNAVAILABLE", "unloaded")})

    assert repository.models() == []
    assert workshop.alive == set()


def test_listeners_hear_of_a_load_and_an_unload(tmp_path: Path) -> None:
    """Until they leave."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()
    heard: list[bool] = []
    leave = repository.subscribe(lambda: heard.append(bool(repository.models())))

    repository.load("m")
    loaded = list(heard)
    repository.unload("m")
    repository.stop(10)
    leave()
    count = len(heard)
    repository.unload("m")

    assert loaded == [False, True]
    assert heard[-1] is False
    assert len(heard) == count


def test_stopping_drains_everything_and_loads_nothing_more(tmp_path: Path) -> None:
    """A load that was under way is undone."""
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, startup=("a",))
    repository.start()
    first = repository.get("a")
    workshop.during = lambda source: repository.stop(10)

    with pytest.raises(Unavailable, match="shutting down"):
        repository.load("b")

    assert first.drained.is_set()
    assert first.stopped.is_set()
    assert workshop.alive == set()
    with pytest.raises(NotFound):
        repository.get("a")
