"""Laws of loads that bring their own configuration and files."""

import tempfile
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import Workshop, make_repository, until, write_model

from penstock_runtime.errors import (
    Internal,
    InvalidArgument,
)
from penstock_runtime.repository.overrides import LoadOverrides


def test_a_broken_override_is_a_failure_to_poll(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The text is Triton's, the log has the rest, and what served still does."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path, startup=("m",))
    repository.start()
    old = repository.get("m")

    for config in ("{", '{"name": "n"}', '{"no_such_field": 1}', "[" * 250_000):
        with pytest.raises(Internal) as caught:
            repository.load("m", LoadOverrides(config))
        assert caught.value.message == "failed to load 'm', failed to poll from model repository"
        assert caught.value.violations

    assert repository.get("m") is old
    assert caplog.text.count("Invalid config override") == 4


def test_a_configuration_override_lasts_until_the_next_load(tmp_path: Path) -> None:
    """The files stay those of the repository."""
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    repository.load("m", LoadOverrides('{"max_batch_size": 4}'))
    overridden = repository.get("m")
    repository.load("m")

    assert overridden.config.max_batch_size == 4
    assert overridden.text == "one"
    assert repository.get("m").config.max_batch_size == 0


def test_override_files_replace_the_folder_and_go_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone after the next load, after an unload, and after a load that failed."""
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    write_model(tmp_path / "r", "m", {1: "one", 5: "five"})
    repository = make_repository(Workshop(), tmp_path / "r")
    repository.start()

    repository.load("m", LoadOverrides("{}", {"2/model.txt": b"two"}))
    served = (repository.get("m").version, repository.get("m").text, len(list(private.iterdir())))
    with pytest.raises(InvalidArgument, match="corrupt"):
        repository.load("m", LoadOverrides("{}", {"2/model.txt": b"corrupt"}))
    kept = (repository.get("m").text, len(list(private.iterdir())))
    repository.load("m")
    until(lambda: not list(private.iterdir()))
    plain = repository.get("m").text
    repository.load("m", LoadOverrides("{}", {"2/model.txt": b"two"}))
    repository.unload("m")
    until(lambda: not list(private.iterdir()))

    assert served == (2, "two", 1)
    assert kept == ("two", 1)
    assert plain == "five"


def test_a_model_can_consist_of_override_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is unloaded, or failed to load, nothing remembers the caller's name for it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    repository = make_repository(Workshop(), tmp_path / "r")
    (tmp_path / "r").mkdir()
    repository.start()

    repository.load("mine", LoadOverrides("{}", {"1/model.txt": b"text"}))
    text = repository.get("mine").text
    repository.unload("mine")
    until(lambda: repository.index() == [])
    with pytest.raises(InvalidArgument):
        repository.load("mine", LoadOverrides("{}", {"1/model.txt": b"corrupt"}))

    assert text == "text"
    assert repository.index() == []
    assert repository.ready()
    until(lambda: [p.name for p in tmp_path.iterdir()] == ["r"])


def test_an_overlong_override_is_a_failure_to_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    write_model(tmp_path, "m")
    repository = make_repository(Workshop(), tmp_path)
    repository.start()

    with pytest.raises(Internal, match="failed to load 'm', failed to poll from model repository"):
        repository.load("m", LoadOverrides("{}", {f"1/{'x' * 256}": b""}))
