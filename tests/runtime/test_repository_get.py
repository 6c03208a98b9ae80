"""Laws of what a name leads to, and what is said when it leads nowhere."""

from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    ALL_VERSIONS,
    Workshop,
    make_repository,
    state,
    write_model,
)

from penstock_runtime.errors import (
    Internal,
    InvalidArgument,
    NotFound,
    PenstockError,
    Unavailable,
)
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.repository.options import ControlMode


def test_a_loaded_model_serves_its_highest_version(tmp_path: Path) -> None:
    """By its number and by none; the other versions are not there."""
    write_model(tmp_path, "m", {1: "one", 9: "nine", 10: "ten"})
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    repository.load("m")

    assert repository.get("m").text == repository.get("m", "10").text == "ten"
    assert [model.version for model in repository.models()] == [10]
    assert state(repository, "m") == {"10": ("READY", "")}
    assert repository.ready()


def test_the_index_lists_what_was_never_loaded(tmp_path: Path) -> None:
    """Without a version and without a state, and not when only READY ones are asked for."""
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    repository.load("b")

    assert repository.index() == [
        ModelIndexEntry("a", "", ModelState.NEVER_LOADED),
        ModelIndexEntry("b", "1", ModelState.READY),
    ]
    assert repository.index(ready_only=True) == [ModelIndexEntry("b", "1", ModelState.READY)]


def test_refusals_say_what_triton_says(tmp_path: Path) -> None:
    """Unknown model, unknown version, no version, a version that is not ready."""
    write_model(tmp_path, "m", {1: "one", 2: "corrupt"}, ALL_VERSIONS)
    write_model(tmp_path, "never")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()
    with pytest.raises(InvalidArgument):
        repository.load("m")

    def refusal(name: str, version: str = "") -> tuple[type[PenstockError], str]:
        with pytest.raises(PenstockError) as caught:
            repository.get(name, version)
        return type(caught.value), caught.value.message

    start = "Request for unknown model: "
    assert refusal("x") == (NotFound, f"{start}'x' is not found")
    assert refusal("x", "1") == (NotFound, f"{start}'x' is not found")
    assert refusal("never") == (NotFound, f"{start}'never' is not found")
    assert refusal("m") == (NotFound, f"{start}'m' has no available versions")
    assert refusal("m", "99") == (NotFound, f"{start}'m' version 99 is not found")
    assert refusal("m", "2") == (Unavailable, f"{start}'m' version 2 is not at ready state")
    assert len(refusal("n" * 10_000)[1]) < 200
    assert refusal("a\0\u202e")[1] == rf"{start}'a\x00\u202e' is not found"


@pytest.mark.parametrize(
    ("version", "details"),
    [
        ("abc", "not a decimal number"),
        ("-1", "not a decimal number"),
        ("1.0", "not a decimal number"),
        (" 1", "not a decimal number"),
        ("\u0661", "not a decimal number"),
        ("0", "zero or a leading zero"),
        ("01", "zero or a leading zero"),
        ("9" * 20, "out of range"),
        (str(2**63), "out of range"),
    ],
)
def test_a_version_that_is_no_version_is_the_callers_fault(
    tmp_path: Path, version: str, details: str
) -> None:
    """Whether there is such a model or not."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()

    for name in ("m", "x"):
        with pytest.raises(InvalidArgument) as caught:
            repository.get(name, version)
        assert caught.value.message == (
            f"failed to get model version from specified version string '{version}' "
            f"(details: {details}), version should be an integral value > 0"
        )


def test_a_model_that_loads_for_the_first_time_may_be_asked_again(tmp_path: Path) -> None:
    """Unavailable with a hint, by version and without; and the server is not ready meanwhile."""
    write_model(tmp_path, "m")
    workshop = Workshop()
    repository = make_repository(workshop, tmp_path)
    repository.start()
    seen: list[tuple[str, int | None]] = []

    def ask(_: object) -> None:
        for version in ("", "1"):
            with pytest.raises(Unavailable) as caught:
                repository.get("m", version)
            seen.append((caught.value.message, caught.value.retry_after_ns))
        assert not repository.ready()

    workshop.during = ask
    repository.load("m")

    start = "Request for unknown model: 'm'"
    assert seen == [
        (f"{start} is not at ready state", 10**9),
        (f"{start} version 1 is not at ready state", 10**9),
    ]


@pytest.mark.parametrize("mode", [ControlMode.NONE, ControlMode.POLL])
def test_a_caller_loads_in_the_explicit_mode_only(tmp_path: Path, mode: ControlMode) -> None:
    """In the others the files decide."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, mode=mode)
    repository.start()
    text = "explicit model load / unload is not allowed if polling is enabled"

    with pytest.raises(Unavailable, match=text):
        repository.load("m")
    with pytest.raises(Unavailable, match=text):
        repository.unload("m")

    assert repository.get("m").version == 1
    repository.stop(10)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("", InvalidArgument, "Model name cannot be empty. Please enter a valid name to deploy."),
        ("  \t", InvalidArgument, "Model name cannot be empty."),
        ("../m", InvalidArgument, "'../m', model name must not contain path traversal characters"),
        ("..", InvalidArgument, "invalid model name '..', model name must not contain"),
        ("a/b", InvalidArgument, "invalid model name 'a/b'"),
        ("a\0", InvalidArgument, r"invalid model name 'a\x00'"),
        ("x", Internal, "failed to load 'x', failed to poll from model repository"),
        ("n" * 300, Internal, "failed to poll from model repository"),
    ],
)
def test_a_name_without_a_model_cannot_be_loaded(
    tmp_path: Path, name: str, error: type[PenstockError], text: str
) -> None:
    """And leaves nothing in any table."""
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    with pytest.raises(error) as caught:
        repository.load(name)

    assert text in caught.value.message
    assert repository.index() == []
    assert repository.ready()
