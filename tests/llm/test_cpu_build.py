"""The build of the CPU's kernels: once, into the user's cache; and no error where it cannot be."""

import logging
from pathlib import Path

import pytest
import torch

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm import cpu_build, cpu_kernels
from penstock_runtime.llm.cpu_build import NotBuilt, built_library

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever was built ahead of time in this tree."""
    monkeypatch.setattr(cpu_build, "SHIPPED", tmp_path / "shipped")


@pytest.fixture
def unloaded() -> None:
    """The library is looked for again, now and after."""
    cpu_kernels._library.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that only fails."""
    compiler = tmp_path / "cxx"
    compiler.write_text(
        "#!/bin/sh\n[ $1 = --version ] || { echo 'x.cpp:1: error: no'; exit 1; } >&2\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return compiler


def test_a_library_that_is_there_is_not_built_again(
    monkeypatch: pytest.MonkeyPatch, failing: Path
) -> None:
    library = cpu_build.cache_folder() / f"{cpu_build._key(str(failing))}.so"
    library.parent.mkdir(parents=True)
    library.touch()

    assert built_library() == library


def test_what_the_compiler_says_is_told(failing: Path) -> None:
    with pytest.raises(NotBuilt, match="the compiler failed: no"):
        built_library()


def test_without_a_compiler_torch_does_it_and_the_log_says_so_once(
    no_compiler: None, unloaded: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "penstock.llm"):
        found = [cpu_kernels.kernels_for("auto", CPU, torch.float32) for _ in range(2)]
    cpu_kernels._library.cache_clear()

    assert found == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "language models run without the CPU's own kernels: there is no C++ compiler"
    ]


def test_kernels_that_are_required_and_cannot_be_had_are_an_error(
    no_compiler: None, unloaded: None
) -> None:
    with pytest.raises(FailedPrecondition, match="'require', but there is no C\\+\\+ compiler"):
        cpu_kernels.kernels_for("require", CPU, torch.float32)
    cpu_kernels._library.cache_clear()


def test_a_cache_that_cannot_be_written_is_no_error(
    monkeypatch: pytest.MonkeyPatch, failing: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(NotBuilt, match="the cache cannot be written"):
        built_library()


def test_a_half_built_library_is_never_found(failing: Path) -> None:
    with pytest.raises(NotBuilt):
        built_library()

    assert list(cpu_build.cache_folder().iterdir()) == []


def test_kernels_are_for_the_cpu_alone() -> None:
    assert cpu_kernels.kernels_for("auto", torch.device("cuda"), torch.float32) is None
    assert cpu_kernels.kernels_for("off", CPU, torch.float32) is None


def test_an_unknown_wish_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="cpu_kernels is 'maybe', expected one of"):
        cpu_kernels.kernels_for("maybe", CPU, torch.float32)


def test_a_library_that_came_with_the_package_is_used_without_a_compiler(
    no_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The best that the processor has all features of; none that it has not."""
    monkeypatch.setattr(cpu_build, "SHIPPED", tmp_path)
    monkeypatch.setattr(cpu_build, "_features", lambda: cpu_build.LEVELS[1].needs)
    best, second, third = (cpu_build._shipped(level) for level in cpu_build.LEVELS)
    for library in (best, third):
        library.touch()

    assert built_library() == third
    second.touch()
    assert built_library() == second
    monkeypatch.setattr(cpu_build, "_features", frozenset)
    with pytest.raises(NotBuilt, match="no C\\+\\+ compiler"):
        built_library()
