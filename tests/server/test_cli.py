"""The command line as a whole: help, errors, what is loaded when, and the public face."""

import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import penstock
from penstock.cli.command import Parser
from penstock.cli.main import COMMANDS, main
from penstock.version import __version__

HEAVY = ("torch", "cupy", "transformers", "grpc", "numpy", "google.protobuf")
ROOT = Path(__file__).resolve().parents[2]
NOBODY = "127.0.0.1:1"


def parser_of(name: str) -> Parser:
    """The parser of one command."""
    module = import_module(f"penstock.cli.{name}")
    parser = Parser(f"penstock {name}", module.DESCRIPTION, module.EXAMPLES)
    module.add_arguments(parser)
    return parser


def loaded_by(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter has loaded after some code."""
    folders = ("server", "runtime", "kernels", "protos")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / f) for f in folders)}
    report = f"{code}\nimport sys; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", report], env=environment, capture_output=True, text=True, check=True
    )
    return set(ran.stdout.splitlines()[-1].split())


def test_import_penstock_loads_nothing_heavy() -> None:
    """Neither models' libraries nor the client's are touched by the import alone."""
    assert loaded_by("import penstock") == set()


def test_help_loads_nothing_heavy() -> None:
    """`penstock --help` is a blink."""
    assert loaded_by("from penstock.cli.main import main; main(['--help'])") == set()


def test_the_help_of_serve_loads_no_library_of_models() -> None:
    """Flags are declared apart from what they set."""
    code = "from penstock.cli.main import main; main(['serve', '--help'])"

    assert loaded_by(code) & {"torch", "cupy", "transformers", "grpc"} == set()


@pytest.mark.parametrize("name", [name for name in dir(penstock) if not name.startswith("_")])
def test_every_public_name_is_there(name: str) -> None:
    """What the package lists it has."""
    assert getattr(penstock, name) is not None


def test_other_names_are_not() -> None:
    """A name that is not public is an AttributeError, as everywhere."""
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = penstock.Klient


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The overview has a line for each command."""
    code = main(["--help"])

    out = capsys.readouterr().out
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)


def test_nothing_asked_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock` alone shows what there is."""
    assert main([]) == 0
    assert "usage: penstock COMMAND" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version of the package."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"penstock {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help has the description, the options and examples, and ends with success."""
    code = main([name, "--help"])

    out = capsys.readouterr().out
    assert code == 0
    assert f"usage: penstock {name}" in out
    assert " ".join(import_module(f"penstock.cli.{name}").DESCRIPTION.split())[:60] in out
    assert "examples:\n  " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_the_help_can_be_typed(name: str) -> None:
    """The examples parse, so they do not rot."""
    module = import_module(f"penstock.cli.{name}")
    lines = [line.partition("|")[0].partition("  #")[0] for line in module.EXAMPLES]
    typed = [shlex.split(line) for line in lines if "penstock " in line]

    for words in typed:
        after = words.index("penstock")
        assert words[after + 1] == name
        parser_of(name).parse_args(words[after + 2 :])

    assert typed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["infr"], "unknown command 'infr', did you mean 'infer'?"),
        (["xyz"], "unknown command 'xyz', see penstock --help"),
        (["serve", "--grpc-prt", "1"], "unknown argument '--grpc-prt', did you mean --grpc-port?"),
        (["serve", "--grpc-port", "x"], "expected int, got 'x'"),
        (["serve"], "expected what to serve, for instance: penstock serve models/"),
        (["serve", "/no/such/place"], "/no/such/place is not there, expected a model repository"),
        (["serve", "/no/such.py:Model"], "/no/such.py is not there, expected a Python file"),
        (["infer"], "the following arguments are required: MODEL"),
        (["infer", "m", "--input", "x"], "expected NAME=VALUE, got 'x'"),
        (["infer", "m", "--url", NOBODY], f"no server answers at {NOBODY}; start one with:"),
        (["infer", "m", "--url", ","], "--url: target names no address"),
        (["models", "--url", NOBODY], "no server answers"),
        (["load", "m", "--url", NOBODY], "no server answers"),
        (["load", "m", "--config", "/no/such.json"], "/no/such.json: No such file or directory"),
        (["load", "m", "--config", "config.pbtxt"], "expected JSON"),
        (["unload", "m", "--url", NOBODY], "no server answers"),
        (["bench", "m", "--url", NOBODY], "no server answers"),
        (["bench", "m", "--concurrency", "0"], "expected numbers above 0 with commas, got '0'"),
        (["bench", "m", "--duration", "-1"], "expected a number above 0, got '-1'"),
        (["selftest", "--url", NOBODY], "no server answers"),
        (["demo", "--url", NOBODY], "make run"),
        (["lint", "/no/such/place"], "/no/such/place is not there, expected a model repository"),
        (["init", "/no/such/place"], "/no/such/place is not there, expected the folder of a model"),
        (["health", "--timeout", "soon"], "expected a number above 0, got 'soon'"),
        (["health", "--timeout", "nan"], "expected a number above 0, got 'nan'"),
        (["health", "--timeout", "1e12"], "expected at most 86,400 seconds, got '1e12'"),
        (["health", "--metadata", "A B=c"], "--metadata: metadata name 'A B'"),
        (["health", "--tls-key", "/k.pem"], "--tls-key needs --tls-cert"),
        (["health", "--tls-ca", "/nope.pem"], "/nope.pem: No such file or directory"),
        (["infer", "m", "--url", "a..b:1,127.0.0.1:2"], "--url: a..b:1 can be no name of a server"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_plain_line(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code 2, nothing on stdout, one line on stderr that names the command and what was wrong."""
    monkeypatch.delenv("PENSTOCK_MODEL_REPOSITORY", raising=False)

    code = main(arguments)

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("penstock")
    assert says in captured.err


def test_health_of_a_server_that_is_not_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """For a probe, no answer is the answer no."""
    code = main(["health", "--url", NOBODY])

    assert code == 1
    assert "no server answers" in capsys.readouterr().err


def test_an_interrupt_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C has the code that shells know, and no traceback."""

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("penstock.cli.lint.run", interrupted)

    assert main(["lint", "."]) == 130
    assert capsys.readouterr().err == ""
