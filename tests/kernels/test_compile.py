"""Laws of the compiled kernels: the committed table is of this very source, and nothing spills.

Where NVRTC is installed all sources are compiled again; where it is not, the digests still hold.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from penstock_kernels import nvrtc, table
from penstock_kernels.build import ARCHITECTURES, build_source, cubin_name, main
from penstock_kernels.registry import sources
from penstock_kernels.table import Cost, Source, Table

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.available(), reason="no NVRTC (wheel nvidia-cuda-nvrtc): sources are not compiled"
)
REMEDY = "run python -m penstock_kernels.build (make kernels) and commit the table"


def committed() -> Table:
    read = table.read()
    assert read is not None, REMEDY
    return read


def test_the_table_is_of_this_source() -> None:
    """Edited CUDA, another instance or option without a new table is found without NVRTC."""
    digests = {name: source.digest for name, source in committed().sources.items()}

    assert digests == {name: table.source_digest(name, of) for name, of in sources().items()}, (
        REMEDY
    )


def test_the_table_has_every_instance_on_every_architecture_without_a_spill() -> None:
    """Every cost is known, no register lies in memory, and static shared memory fits any block."""
    for name, source in committed().sources.items():
        assert set(source.costs) == set(sources()[name])
        for by_arch in source.costs.values():
            assert set(by_arch) == set(ARCHITECTURES)
            assert all(cost.spilled == 0 and cost.shared < 48 << 10 for cost in by_arch.values())


@needs_nvrtc
@pytest.mark.parametrize("source", sorted(sources()))
def test_every_source_compiles_as_the_table_says(source: str) -> None:
    """For each architecture, without a GPU and without a header: no spill, no register more."""
    old = committed()
    made = build_source(source, sources()[source], ARCHITECTURES)
    new = Table(nvrtc.version(), {source: made})

    assert table.complaints(old, new) == []
    if new.nvrtc == old.nvrtc:
        assert made == old.sources[source], REMEDY


@needs_nvrtc
def test_source_that_nvrtc_refuses_is_shown_with_its_line() -> None:
    """The error carries the compiler's words and names the architecture."""
    with pytest.raises(nvrtc.NvrtcError, match=r"(?s)bad\.cu for sm_90.*bad\.cu\(2\)"):
        nvrtc.compile_cubin("__global__ void k() {\nnonsense; }", "bad.cu", ("k",), "90")


SMALL = Table("13.0", {"a.cu": Source("d", {"k": "_k"}, {"k": {"90": Cost(20, 0, 0, 0)}})})


def changed(*, registers: int = 20, spilled: int = 0, compiler: str = "13.0") -> Table:
    cost = Cost(registers, 0, spilled, 0)
    source = replace(SMALL.sources["a.cu"], costs={"k": {"90": cost}})
    return Table(compiler, {"a.cu": source})


def test_growth_and_spills_are_complaints() -> None:
    """Fewer registers are welcome, another compiler is no growth, and a spill never passes."""
    assert table.complaints(SMALL, changed(registers=19)) == []
    assert table.complaints(SMALL, changed(registers=21, compiler="13.1")) == []
    assert table.complaints(SMALL, changed(registers=21)) == [
        "k on sm_90 takes 21 registers, before 20"
    ]
    assert table.complaints(None, changed(spilled=8)) == [
        "k on sm_90 spills 8 bytes, expected none"
    ]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The file holds all that the table says, one cost a line."""
    table.write(SMALL, tmp_path / "table.json")

    assert table.read(tmp_path / "table.json") == SMALL
    assert table.read(tmp_path / "none.json") is None


def test_costs_are_read_from_what_ptxas_says() -> None:
    """Registers, stack, spills both ways and shared memory, each of its own kernel."""
    log = (
        "ptxas info    : Compiling entry function '_a' for 'sm_90'\n"
        "ptxas info    : Function properties for _a\n"
        "    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 32 registers, used 1 barriers, 64 bytes smem\n"
        "ptxas info    : Compiling entry function '_b' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 8 registers, used 0 barriers\n"
    )

    assert table.costs(log, {"a": "_a", "b": "_b"}) == {
        "a": Cost(32, 16, 12, 64),
        "b": Cost(8, 0, 0, 0),
    }


def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without NVRTC it names what to install, and writes nothing."""

    def nothing(*_: object) -> None:
        raise nvrtc.NvrtcMissingError("no NVRTC library: install nvidia-cuda-nvrtc")

    monkeypatch.setattr(nvrtc, "compile_cubin", nothing)

    assert main(["--arch", "90", "--check"]) == 2
    assert capsys.readouterr().err == "no NVRTC library: install nvidia-cuda-nvrtc\n"


@needs_nvrtc
def test_the_command_writes_cubins_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one architecture cubins alone; for all the table too, and --check says nothing."""
    monkeypatch.setattr(
        "penstock_kernels.build.sources", lambda: {"image.cu": sources()["image.cu"]}
    )
    where = ["--table", str(tmp_path / "table.json"), "--out", str(tmp_path)]

    assert main(["--arch", "90", *where]) == 0
    assert not (tmp_path / "table.json").exists()
    assert main(where) == 0
    assert main(["--check", *where]) == 0

    assert (tmp_path / cubin_name("image.cu", "90")).read_bytes()[:4] == b"\x7fELF"
    made = table.read(tmp_path / "table.json")
    assert made is not None
    assert made.sources["image.cu"] == committed().sources["image.cu"]
