"""The page for users of other servers: what it has them type works, and its tables are true."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks, codes, items, tables
from tests.docs.repositories import (
    language_model,
    mlserver_model,
    torchserve_archive,
    triton_model,
)
from tests.docs.sessions import Session

from penstock.cli.lint import lint
from penstock.cli.main import COMMANDS
from penstock.config import FLAGS, FOREIGN_FLAGS
from penstock.config_sources import read_options
from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig

PAGE = ROOT / "docs" / "migration.md"
# Of `tritonserver --help`, less those that only print something and end.
TRITONS = frozenset((Path(__file__).parent / "triton_flags.txt").read_text().split())
OURS = {name for flag in FLAGS for name in (flag.name, *flag.info.aliases)}
VERDICTS = ("same", "ignored", "refused")
SERVERS = ("From Triton", "From MLServer", "From KServe", "From TorchServe")
LANGUAGE = "From vLLM and TGI"
CHAPTERS = (*SERVERS, LANGUAGE)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Session]:
    """Someone with models of every other server, who leaves no server behind."""
    triton_model(tmp_path / "model_repository" / "add_sub")
    triton_model(tmp_path / "mounted")
    mlserver_model(tmp_path / "models" / "scale")
    torchserve_archive(tmp_path / "model_store" / "mirror.mar")
    names = {"triton-host:": "localhost:", "/mnt/models": str(tmp_path / "mounted")}
    made = Session(tmp_path, names, DOCS_STAND_IN_FOR_MLSERVER="1")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("chapter", SERVERS)
def test_a_reader_gets_from_the_files_to_a_first_answer(chapter: str, reader: Session) -> None:
    """Every command of a chapter does what the page says, in the order of the page."""
    reader.follow(block for block in blocks(PAGE) if block.chapter == chapter)


def test_every_block_is_executed_or_says_why_not() -> None:
    """Nothing on the page is only claimed."""
    found = blocks(PAGE)

    assert {block.chapter for block in found} == set(CHAPTERS)
    for block in found:
        assert block.mark, f"line {block.line}"
        assert block.argument or block.mark not in ("file", "not run"), f"line {block.line}"


def flags_by_verdict() -> dict[str, set[str]]:
    """What the page says of Triton's flags: the names of each item."""
    instead = {"trace-config", "grpc-address"}
    found = {}
    for verdict, item in zip(VERDICTS, items(PAGE, "Flags of Triton"), strict=True):
        words = [code for code in codes(item) if code.startswith("--")]
        found[verdict] = {word[2:].partition("=")[0] for word in words}
    found["refused"] -= instead
    return found


def test_every_flag_of_triton_is_told_and_stands_where_it_belongs() -> None:
    """The lists are those of the options: same, accepted without effect, refused."""
    told = flags_by_verdict()

    foreign = FOREIGN_FLAGS.values()
    assert told["same"] <= OURS
    assert told["ignored"] == {flag.name for flag in foreign if not flag.refused}
    assert told["refused"] == {flag.name for flag in foreign if flag.refused}
    assert told["same"] | told["ignored"] | told["refused"] == TRITONS


def test_flags_that_are_refused_say_what_to_say_instead(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The start ends with a text that helps, not with an unknown option."""
    for name in flags_by_verdict()["refused"]:
        value = "false" if FOREIGN_FLAGS[name].when_off else "1"
        with pytest.raises(SystemExit):
            read_options([f"--{name}={value}"], {})
        assert f"--{name}: {FOREIGN_FLAGS[name].refused}" in capsys.readouterr().err


def test_a_reader_gets_from_a_folder_to_an_answer(reader: Session, tmp_path: Path) -> None:
    """The same with a language model."""
    pytest.importorskip("transformers")
    pytest.importorskip("llguidance")
    language_model(tmp_path / "hub" / "tiny")

    reader.follow(block for block in blocks(PAGE) if block.chapter == LANGUAGE)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_stands_for_something_else_is_there(chapter: str) -> None:
    """Flags and commands in the right column of a chapter's table are penstock's own."""
    (table,) = tables(PAGE, chapter)

    for row in table:
        for code in codes(row[-1]):
            if code.startswith("--"):
                assert code[2:].partition("=")[0].split()[0] in OURS, code
            elif code.startswith("penstock "):
                assert code.split()[1] in COMMANDS, code


def formats() -> Iterator[tuple[str, bool, str]]:
    """The files of the table of formats: name, whether it is served, and how."""
    (table,) = tables(PAGE, "Model formats")
    for what, served, how in table:
        for file in codes(what):
            if "." in file and "=" not in file:
                yield file, served == "yes", how


@pytest.mark.parametrize(("file", "served", "how"), list(formats()))
def test_formats_are_served_as_the_table_says(
    file: str, served: bool, how: str, tmp_path: Path
) -> None:
    """What the table says is not served is an error of lint, before anything is started."""
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / file).write_text("")
    if file == "model.safetensors":
        (version / "model.py").write_text("")

    _, findings = lint(tmp_path)

    nothing = [f for f in findings if "nothing that a backend recognises" in f.text]
    assert bool(nothing) is not served
    if served:
        found = default_registry().find(ModelSource(ModelConfig("m"), 1, version, tmp_path / "m"))
        assert found.name in codes(how)
