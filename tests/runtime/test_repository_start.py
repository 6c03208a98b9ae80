"""Laws of the start: what is loaded in which mode, and what a failure there means."""

import threading
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import Clock, Workshop, make_repository, write_model

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.start_report import LoadProgress


@pytest.mark.parametrize(
    ("mode", "startup", "expected"),
    [
        (ControlMode.NONE, (), ["a", "b", "c"]),
        (ControlMode.POLL, (), ["a", "b", "c"]),
        (ControlMode.EXPLICIT, (), []),
        (ControlMode.EXPLICIT, ("c", "a"), ["a", "c"]),
        (ControlMode.EXPLICIT, ("*",), ["a", "b", "c"]),
    ],
)
def test_the_mode_says_what_is_loaded(
    tmp_path: Path, mode: ControlMode, startup: tuple[str, ...], expected: list[str]
) -> None:
    """Everything, or what the operator named."""
    for name in ("a", "b", "c"):
        write_model(tmp_path, name)
    repository = make_repository(Workshop(), tmp_path, mode=mode, startup=startup)
    before = repository.ready()

    failures = repository.start()

    assert [model.config.name for model in repository.models()] == expected
    assert failures == ()
    assert not before
    assert repository.ready()
    repository.stop(10)


def test_a_model_that_fails_keeps_no_other_from_serving(tmp_path: Path) -> None:
    """It is returned and reported with its reason; the server is not ready."""
    write_model(tmp_path, "a", {1: "corrupt"})
    write_model(tmp_path, "b")
    repository = make_repository(Workshop(), tmp_path, mode=ControlMode.NONE)
    told: list[LoadProgress] = []

    failures = repository.start(told.append)

    assert [failure.name for failure in failures] == ["a"]
    assert "version 1 is at UNAVAILABLE state: the weights in model.txt" in failures[0].reason
    assert [(entry.done, entry.total) for entry in told] == [(1, 2), (2, 2)]
    assert {entry.name for entry in told if not entry.reason} == {"b"}
    assert repository.get("b").text == "one"
    assert not repository.ready()


def test_a_model_that_the_operator_named_must_be_there(tmp_path: Path) -> None:
    """The index says so too."""
    repository = make_repository(Workshop(), tmp_path, startup=("ghost",))

    failures = repository.start()

    reason = "the model is not in the model repository"
    assert [(f.name, f.reason) for f in failures] == [("ghost", reason)]
    assert repository.index() == [ModelIndexEntry("ghost", "", ModelState.UNAVAILABLE, reason)]
    assert not repository.ready()


def test_a_model_in_two_repositories_is_unavailable(tmp_path: Path) -> None:
    """With the reason; its neighbours are not affected."""
    write_model(tmp_path / "r", "m")
    write_model(tmp_path / "s", "m")
    write_model(tmp_path / "s", "n")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path / "r", tmp_path / "s", mode=ControlMode.NONE)

    failures = repository.start()

    assert [failure.name for failure in failures] == ["m"]
    assert [name for name, _, _ in workshop.started] == ["n"]
    assert repository.index()[0] == ModelIndexEntry(
        "m",
        "",
        ModelState.UNAVAILABLE,
        "model 'm' is in 2 model repositories, expected one",
    )


def test_a_single_model_is_served_under_the_operators_name(tmp_path: Path) -> None:
    """As bare files and as version folders."""
    (tmp_path / "model.txt").write_text("bare")
    repository = make_repository(Workshop(), tmp_path, mode=ControlMode.NONE, model_name="iris")

    repository.start()

    assert repository.get("iris", "1").text == "bare"
    assert repository.get("iris").source.directory == tmp_path


def test_a_model_that_is_still_being_copied_is_waited_for(tmp_path: Path) -> None:
    """What is loaded is what is there once it no longer changes."""
    folder = write_model(tmp_path, "m", {1: "half"})
    clock = Clock(0)
    rest = iter(["more", "whole"])

    def copy_on() -> None:
        text = next(rest, None)
        if text is not None:
            (folder / "1" / "model.txt").write_text(text)

    clock.meanwhile = copy_on
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, mode=ControlMode.NONE, clock=clock)

    repository.start()

    assert workshop.started == [("m", 1, "whole")]
    assert clock.waits == [0.5, 0.5, 0.5]


def test_a_model_that_never_settles_is_not_loaded(tmp_path: Path) -> None:
    """The start goes on without it."""
    folder = write_model(tmp_path, "m", {1: ""})
    clock = Clock(0)

    def copy_on() -> None:
        with (folder / "1" / "model.txt").open("a") as file:
            file.write("x")

    clock.meanwhile = copy_on
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, mode=ControlMode.NONE, clock=clock)

    repository.start()

    assert workshop.started == []
    assert "still being written" in repository.index()[0].reason


def test_the_start_ends_early_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    """It does not wait for a load that hangs, and what that loads is never published."""
    for name in ("a", "b"):
        write_model(tmp_path, name)
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path, mode=ControlMode.NONE)
    hanging, going_on = threading.Barrier(3), threading.Event()

    def hang(_: object) -> None:
        hanging.wait()
        going_on.wait()

    workshop.during = hang
    starter = threading.Thread(target=repository.start)
    starter.start()
    hanging.wait()
    repository.stop(1)
    starter.join()
    ready = repository.ready()
    loading = [thread for thread in threading.enumerate() if thread.name.startswith("model-load")]
    going_on.set()
    for thread in loading:
        thread.join()

    assert not ready
    assert repository.models() == []
    assert workshop.alive == set()


def test_a_repository_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """The operator is told which."""
    repository = make_repository(Workshop(), tmp_path / "nowhere", mode=ControlMode.NONE)

    with pytest.raises(FailedPrecondition, match="nowhere"):
        repository.start()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"poll_seconds": 0}, "poll_seconds is 0"),
        ({"load_threads": 0}, "load_threads is 0"),
        ({"load_retries": -1}, "load_retries is -1"),
        ({"startup_models": ("m",)}, "explicit mode only, the mode is none"),
        ({"model_name": "../m"}, "model_name is '../m'"),
        ({"model_config_name": "a/b"}, "model_config_name is 'a/b'"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, object], text: str
) -> None:
    """With the field and its value."""
    with pytest.raises(InvalidArgument, match=text):
        RepositoryOptions((tmp_path,), **options)  # type: ignore[arg-type]
