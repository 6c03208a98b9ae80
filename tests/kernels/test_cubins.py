"""Laws of the code cache: what was compiled is found again, what has changed never is."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock_kernels import source, table
from penstock_kernels.build import cubin_name
from penstock_kernels.cubins import Cubins, cache_folder
from penstock_kernels.nvrtc import Compiled
from penstock_kernels.table import Cost, Source, Table

NAME, INSTANCES = "activation.cu", ("silu_mul<f16>",)


class Counting:
    """A compiler that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, source: str, name: str, instances: tuple[str, ...], arch: str) -> Compiled:
        self.calls += 1
        return Compiled(f"{self.calls} for {arch}".encode(), dict.fromkeys(instances, "_k"), "")


@pytest.fixture
def cubins(tmp_path: Path) -> Cubins:
    return Cubins(tmp_path / "built", tmp_path / "cache", Counting(), lambda: "13.0")


def calls(cubins: Cubins) -> int:
    compile_cubin: Any = cubins.compile
    return int(compile_cubin.calls)


def test_the_second_start_compiles_nothing(cubins: Cubins) -> None:
    """Code and symbols are those of the first."""
    first = cubins.find(NAME, INSTANCES, "90")

    assert cubins.find(NAME, INSTANCES, "90") == first
    assert calls(cubins) == 1


CHANGES: list[Callable[[Cubins], Any]] = [
    lambda cubins: cubins.find(NAME, INSTANCES, "100"),
    lambda cubins: cubins.find(NAME, ("silu_mul<bf16>",), "90"),
    lambda cubins: cubins.find("norm.cu", INSTANCES, "90"),
    lambda cubins: replace(cubins, compiler_version=lambda: "13.1").find(NAME, INSTANCES, "90"),
]


@pytest.mark.parametrize("change", CHANGES, ids=["architecture", "instances", "source", "compiler"])
def test_what_decides_the_code_decides_its_name(
    cubins: Cubins, change: Callable[[Cubins], Any]
) -> None:
    """Another architecture, instance, source or compiler is compiled anew."""
    cubins.find(NAME, INSTANCES, "90")

    change(cubins)

    assert calls(cubins) == 2


def test_an_edited_header_changes_the_digest(tmp_path: Path) -> None:
    """The text of a source has its headers in it, each once, under their own names and lines."""
    (tmp_path / "k.cu").write_text('#include "a.cuh"\n#include "b.cuh"\nkernel\n')
    (tmp_path / "b.cuh").write_text('#include "a.cuh"\nb\n')
    (tmp_path / "a.cuh").write_text("one\n")
    before = source.flatten(tmp_path / "k.cu", tmp_path)

    (tmp_path / "a.cuh").write_text("two\n")

    after = source.flatten(tmp_path / "k.cu", tmp_path)
    assert before.replace("one", "two") == after
    assert after.count("two") == 1
    assert '#line 3 "k.cu"\nkernel' in after


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    """Every start compiles, and none fails."""
    (tmp_path / "file").write_text("in the way")
    cubins = Cubins(tmp_path, tmp_path / "file" / "cache", Counting(), lambda: "13.0")

    assert cubins.find(NAME, INSTANCES, "90").cubin == b"1 for 90"
    assert cubins.find(NAME, INSTANCES, "90").cubin == b"2 for 90"


def test_a_broken_entry_is_compiled_anew(cubins: Cubins) -> None:
    """A file that another program cut short is no reason to fail."""
    cubins.find(NAME, INSTANCES, "90")
    for path in cubins.cache.glob("*.json"):
        path.write_text("{")

    assert cubins.find(NAME, INSTANCES, "90").cubin == b"2 for 90"


def shipped(cubins: Cubins, digest: str, built_of: str) -> None:
    """Put a cubin and a table into the folder of what was built ahead of time."""
    cubins.built.mkdir()
    costs = {"silu_mul<f16>": {"90": Cost(1, 0, 0, 0)}}
    entry = Source(digest, {"silu_mul<f16>": "_shipped"}, costs)
    table.write(Table("13.0", {NAME: entry}), cubins.built / "table.json")
    path = cubins.built / cubin_name(NAME, "90")
    path.write_bytes(b"shipped")
    path.with_name(f"{path.name}.digest").write_text(built_of)


def test_code_built_ahead_of_time_needs_no_compiler(cubins: Cubins) -> None:
    """If it is of this very source."""
    now = table.source_digest(NAME, INSTANCES)
    shipped(cubins, now, now)

    found = cubins.find(NAME, INSTANCES, "90")

    assert (found.cubin, found.symbols, calls(cubins)) == (
        b"shipped",
        {INSTANCES[0]: "_shipped"},
        0,
    )


def test_code_built_ahead_of_time_that_cannot_be_read_is_compiled(cubins: Cubins) -> None:
    """As if it were not there."""
    now = table.source_digest(NAME, INSTANCES)
    shipped(cubins, now, now)
    path = cubins.built / cubin_name(NAME, "90")
    path.unlink()
    path.mkdir()

    assert cubins.find(NAME, INSTANCES, "90").cubin == b"1 for 90"


@pytest.mark.parametrize("old", ["table", "cubin"])
def test_code_built_of_older_source_is_not_used(cubins: Cubins, old: str) -> None:
    """Neither a table nor a cubin that stayed behind is taken for the source's."""
    now = table.source_digest(NAME, INSTANCES)
    shipped(cubins, "old" if old == "table" else now, "old" if old == "cubin" else now)

    assert cubins.find(NAME, INSTANCES, "90").cubin == b"1 for 90"


def test_the_cache_lies_where_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """PENSTOCK_KERNEL_CACHE, then XDG's folder, then the home directory's."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PENSTOCK_KERNEL_CACHE", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/penstock/kernels")

    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/penstock/kernels")

    monkeypatch.setenv("PENSTOCK_KERNEL_CACHE", "/var/kernels")
    assert cache_folder() == Path("/var/kernels")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no folder is made where the server happens to be started."""
    for name in ("PENSTOCK_KERNEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)

    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
