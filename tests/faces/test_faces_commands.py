"""The commands of a terminal against a server with real models."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.language_models import PROMPT, wait_until
from tests.e2e.running import Running
from tests.faces.serving_languages import ANSWER

from penstock.cli.main import main


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], running: Running) -> Any:
    """Runs a command against the server; its exit code and both of its outputs."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*argv, "--url", running.target])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def record(running: Running) -> Path:
    """Where the server writes what it was asked."""
    return Path(running.server.options.call_log)


def test_generate_prints_the_same_text_in_pieces_and_whole(said: Any, client: Any) -> None:
    """The figures go beside it, to the other output."""
    asked = ("tiny", PROMPT, "--max-tokens", "8", "--temperature", "0")
    text = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=8, temperature=0
    ).choices[0].text  # fmt: skip

    code, streamed, figures = said("generate", *asked)
    whole = said("generate", *asked, "--no-stream", "--quiet")
    lines = said("generate", *asked, "--json")[1].splitlines()

    assert (code, streamed, whole) == (0, f"{text}\n", (0, f"{text}\n", ""))
    assert "8 tokens in" in figures
    assert "tokens/s" in figures
    assert "server: first after" in figures
    assert "".join(json.loads(line)["text"] for line in lines[:-1]) == text
    assert json.loads(lines[-1])["usage"]["num_output_tokens"] == 8


def test_generate_tells_several_answers_and_how_likely_they_were(said: Any) -> None:
    """In the form that was asked for; the only model need not be named."""
    code, out, _ = said("generate", PROMPT, "--n", "2", "--logprobs", "1", "--max-tokens", "3")
    bound = said("generate", PROMPT, "--choice", "red", "--choice", "green", "--quiet")[1]

    assert code == 0
    assert "1 of 2" in out
    assert out.count("PROBABILITY") == 2
    assert bound.strip() in ("red", "green")


def test_generate_says_what_is_wrong(said: Any) -> None:
    """In one line, with the server's words."""
    unknown = said("generate", "none", PROMPT)
    wrong = said("generate", "tiny", PROMPT, "--param", "foo=3")

    assert (unknown[0] != 0, wrong[0] != 0) == (True, True)
    assert "NOT_FOUND" in unknown[2]
    assert "'foo' is unknown" in wrong[2]
    assert len(wrong[2].splitlines()) == 1


def test_chat_answers_each_line_of_a_pipe(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the answers go to standard output, and what it remembers can be forgotten."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("what does len do?\n/reset\nwhat does len do?\n"))

    code, out, figures = said("chat", "tiny", "--temperature", "0")

    assert (code, out) == (0, f"{ANSWER}\n{ANSWER}\n")
    assert "(16 cached)" in figures


def test_demo_shows_a_text_as_it_is_written(said: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And how others ask it, who get an answer by that; not how those that are not there are."""
    code, out, _ = said("demo")

    assert code == 0
    assert "tiny: a text as it is written" in out
    assert "what does os.path.join do?" in out
    assert "tokens/s" in out
    _, _, others = out.partition("the same with tritonclient")
    assert others.count("grpcurl -plaintext") == 1
    assert '"digits"' not in others
    program = others[others.index("import numpy") : others.index("\n── the same with grpcurl")]
    exec(program, {})
    assert capsys.readouterr().out.strip()


def test_calls_lists_what_was_asked_and_finds_it_again(
    said: Any, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its text, and those that failed."""

    def calls(*argv: str) -> list[dict[str, Any]]:
        main(["calls", str(record(running)), "--grep", "sunflower", "--json", *argv])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    said("generate", "tiny", "import sunflower", "--max-tokens", "4", "--quiet")
    said("generate", "tiny", "import sunflower", "--param", "regex=((")
    wait_until(lambda: len(calls()) == 2)
    failed, good = calls()

    assert (good["output_tokens"], good["prompt"]) == (4, "import sunflower")
    assert good["ttft_ms"] > 0
    assert failed["status"] == "INVALID_ARGUMENT"
    assert calls("--failed") == [failed]
