"""What the README has a reader type works, in the order of the page; and what other pages add."""

import shutil
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks
from tests.docs.repositories import language_model
from tests.docs.sessions import Session

PAGE = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
LANGUAGE = "A language model"
LANGUAGE_PAGES = (ROOT / "docs" / "llm.md", ROOT / "docs" / "openai.md")
COMMANDS = ("sh", "python")


def test_a_reader_can_do_what_the_readme_says(tmp_path: Path) -> None:
    """Every command from the first program to the last, each of a server that runs."""
    reader = Session(tmp_path, {})
    try:
        reader.follow(block for block in blocks(PAGE) if block.chapter != LANGUAGE)
        reader.follow(block for block in blocks(OPERATIONS) if block.mark)
    finally:
        reader.close()

    assert "REQUEST_START" in (tmp_path / "trace.json").read_text()


def test_a_reader_can_do_what_is_said_of_language_models(tmp_path: Path) -> None:
    """Here and on the pages of theirs, with a small model that was trained for the tests."""
    for package in ("transformers", "llguidance", "openai"):
        pytest.importorskip(package)
    language_model(tmp_path / "examples" / "repository" / "tiny_llm" / "1")
    shutil.copytree(ROOT / "examples" / "clients", tmp_path / "examples" / "clients")
    reader = Session(tmp_path, {})

    try:
        reader.follow(block for block in blocks(PAGE) if block.chapter == LANGUAGE)
        for page in LANGUAGE_PAGES:
            reader.follow(block for block in blocks(page) if block.mark)
    finally:
        reader.close()


def test_every_command_is_executed_or_says_why_not() -> None:
    """Nothing in the README is only claimed; what is no command is a piece of a configuration."""
    for block in blocks(PAGE):
        assert block.mark or block.language not in COMMANDS, f"line {block.line}"
        assert block.argument or block.mark not in ("file", "not run"), f"line {block.line}"
