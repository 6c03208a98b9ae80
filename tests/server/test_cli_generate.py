"""`penstock generate` and `penstock chat` against a server with models that only look like language
models.
"""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.server.fake_language_model import write_talker, write_whole
from tests.transports import chosen

from penstock.cli.main import main
from penstock.config import ServerOptions
from penstock.embedded import BackgroundServer

PLAIN = """\
from penstock import FP32, model

@model
def plain(X: FP32[1]) -> FP32[1].named("Y"):
    return X
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one model that streams, one that answers at once, and one of another kind."""
    root = tmp_path_factory.mktemp("models")
    write_talker(root)
    write_whole(root)
    (root / "plain" / "1").mkdir(parents=True)
    (root / "plain" / "1" / "model.py").write_text(PLAIN)
    with _served(root) as server:
        yield server.grpc_address


@pytest.fixture(scope="module")
def lone_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose only generative model is the one that streams."""
    root = tmp_path_factory.mktemp("lone")
    write_talker(root, "only")
    with _served(root) as server:
        yield server.grpc_address


def _served(root: Path) -> BackgroundServer:
    return BackgroundServer(
        ServerOptions(
            model_repository=(str(root),),
            transport=chosen(),
            grpc_address=("127.0.0.1",),
            grpc_port=0,
            metrics_port=0,
        )
    )


def _pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


# -- generate --------------------------------------------------------------------------------------


def test_the_text_goes_to_stdout_and_the_figures_to_stderr(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is piped on is the text alone; figures are the client's and the server's own."""
    code = main(["generate", "talker", "the river turns", "--url", url])

    out, err = capsys.readouterr()
    assert code == 0
    assert out == "THE RIVER TURNS \n"
    ours, theirs = err.splitlines()
    assert re.fullmatch(
        r"3 tokens in [\d.]+ s · first after [\d.,]+ ms, then [\d.,]+ tokens/s"
        r" · prompt of 3 \(2 cached\) · stop",
        ours,
    )
    assert theirs == "server: first after 1.5 ms · queue 0.2 ms · then 2.0 ms a token"


def test_every_option_becomes_a_sampling_parameter(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the names of vLLM; what has no option of its own goes as it is."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    options = "--max-tokens 9 --temperature 0.5 --top-p 0.9 --top-k 3 --seed 7 --quiet"
    more = ["--stop", "a", "--stop", "b", "--param", "min_p=0.1", "--param", 'bad_words=["x"]']

    form = ["--json-schema", str(schema), "--url", url]
    main(["generate", "talker", "echo", *options.split(), *more, *form])

    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 7,
        "stop": ["a", "b"],
        "min_p": 0.1,
        "bad_words": ["x"],
        "json": {"type": "object"},
    }
    assert err == ""


def test_a_choice_and_a_pattern_are_forms_of_which_one_may_be_asked(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both at once is an error before anything is sent."""
    asked = ["generate", "talker", "colour", "--choice", "red", "--choice", "green", "--url", url]

    assert main(asked) == 0
    assert capsys.readouterr().out == "red\n"
    assert main([*asked, "--regex", "a+"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_choices_that_come_in_turns_are_printed_one_after_the_other(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first live, the others when it is their turn, each with its tokens if asked for."""
    main(["generate", "talker", "a b", "--n", "2", "--logprobs", "1", "--url", url])

    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines[:4]] == ["── 1 of 2", "A B ", "── 2 of 2", "A B "]
    assert lines[4].split() == ["TOKEN", "PROBABILITY", "RANK", "OTHERS"]
    assert lines[5].split() == ["'A", "'", "90.5%", "1", "'x'", "8.2%"]
    assert len(lines) == 4 + 2 * 3


def test_an_answer_may_be_asked_for_as_a_whole(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that has no stream; options may stand between its name and the prompt."""
    code = main(["generate", "whole", "--no-stream", "--n", "2", "the mill", "--url", url])

    out, err = capsys.readouterr()
    assert code == 0
    assert out.count("THE MILL") == 2
    assert err.startswith("4 tokens in ")
    assert "first after" not in err.splitlines()[0]
    assert err.splitlines()[0].endswith("· stop at 'END'")


def test_json_has_a_line_for_each_delta_and_one_for_the_figures(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For programs that read along."""
    main(["generate", "talker", "a b", "--json", "--url", url])

    *deltas, figures = map(json.loads, capsys.readouterr().out.splitlines())
    assert deltas == [
        {"index": 0, "text": "A "},
        {"index": 0, "text": "B ", "finish_reason": "stop"},
    ]
    assert figures["usage"] == {"num_input_tokens": 2, "cached_tokens": 2, "num_output_tokens": 2}
    assert figures["server"] == {"ttft_ms": 1.5, "queue_ms": 0.25, "itl_mean_ms": 2.0}
    assert 0 < figures["client"]["ttft_ms"] <= figures["client"]["total_ms"]


@pytest.mark.parametrize("by", ["argument", "pipe", "file"])
def test_the_only_generative_model_needs_no_name(
    by: str,
    lone_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever way the prompt comes; a lone argument that names no model is the prompt."""
    (tmp_path / "prompt").write_text("one two\n")
    _pipe(monkeypatch, "one two\n")
    given = {"argument": ["one two"], "pipe": [], "file": ["--file", str(tmp_path / "prompt")]}

    code = main(["generate", *given[by], "--url", lone_url])

    assert code == 0
    assert capsys.readouterr().out == "ONE TWO \n"


def test_a_lone_argument_that_names_a_model_is_the_model(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its prompt then comes through the pipe."""
    _pipe(monkeypatch, "from a pipe\n")

    assert main(["generate", "talker", "--url", url]) == 0

    assert capsys.readouterr().out == "FROM A PIPE \n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a prompt"], "which model? those that do are talker, whole"),
        (["plain", "x"], "model plain does not generate text: it has no sampling_parameters"),
        (["nosuch", "x"], "'nosuch' is not found"),
        (["talker"], "the prompt is empty: nothing came from standard input"),
        (["talker", "x", "--file", "y"], "the prompt was given twice"),
        (["talker", "x", "--temperature", "-1"], "temperature is -1, expected a number from 0"),
        (["talker", "x", "--json-schema", os.devnull], "is no JSON"),
        (["talker", "x", "--n", "0"], "expected a number from 1, got '0'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str],
    said: str,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says what was wrong, and the exit code is 2."""
    _pipe(monkeypatch, "")

    code = main(["generate", *arguments, "--url", url])

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


# -- chat ------------------------------------------------------------------------------------------


def test_a_conversation_goes_through_a_pipe(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line is a message; what was said before goes along until it is forgotten or taken back."""
    lines = ["hello", "more", "/undo", "again", "/reset", "anew", "/system You", "who"]
    _pipe(monkeypatch, "\n".join([*lines, "/exit", "never"]))

    code = main(["chat", "talker", "--quiet", "--url", url])

    out, err = capsys.readouterr()
    assert code == 0
    assert out.splitlines() == ["1 HELLO ", "3 MORE ", "3 AGAIN ", "1 ANEW ", "2 YOU WHO "]
    assert err.splitlines() == [
        "1 of your messages left",
        "the conversation is forgotten",
        "it knows who it is",
    ]


def test_a_message_that_fails_ends_a_pipe(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is there to ask again."""
    _pipe(monkeypatch, "a\nb\n")

    code = main(["chat", "talker", "--temperature", "-1", "--url", url])

    assert code == 2
    assert capsys.readouterr().err.count("temperature is -1") == 1


def test_a_model_without_conversations_says_so(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a command for it."""
    assert main(["chat", "whole", "--url", url]) == 2

    assert "whole takes no messages: try penstock generate" in capsys.readouterr().err


class Terminal:
    """A `penstock` whose standard streams are a terminal of the test."""

    def __init__(self, *arguments: str) -> None:
        self._main, end = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments],
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(end)
        os.set_blocking(self._main, False)
        self.seen = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._main, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str, timeout_s: float = 20.0) -> None:
        """Until this is seen; what was seen before does not count again."""
        limit = time.monotonic() + timeout_s
        while text not in self.seen:
            if time.monotonic() > limit:
                raise AssertionError(f"{text!r} was not seen in {self.seen!r}")
            try:
                self.seen += os.read(self._main, 65_536).decode()
            except BlockingIOError:
                time.sleep(0.01)
        self.seen = self.seen.partition(text)[2]

    def ended(self) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._main)


def test_ctrl_c_ends_the_answer_and_not_the_conversation(url: str) -> None:
    """What was said until then stays said; at the prompt Ctrl-C only clears the line."""
    with Terminal("chat", "talker", "--url", url) as terminal:
        terminal.wait_for("> ")
        terminal.type("slowly " + "word " * 200 + "\n")
        terminal.wait_for("1 SLOWLY WORD WORD")
        terminal.interrupt()
        terminal.wait_for("cancelled")
        terminal.wait_for("> ")
        terminal.type("and\n")
        terminal.wait_for("3 AND")
        terminal.wait_for("> ")
        terminal.interrupt()
        terminal.wait_for("Ctrl-D leaves")
        terminal.type("/exit\n")

        assert terminal.ended() == 0


def test_ctrl_c_ends_a_generation_with_its_figures(url: str) -> None:
    """And the program, with the exit code that a shell expects."""
    with Terminal("generate", "talker", "slowly " + "word " * 200, "--url", url) as terminal:
        terminal.wait_for("SLOWLY WORD WORD")
        terminal.interrupt()
        terminal.wait_for("cancelled")

        assert terminal.ended() == 130
