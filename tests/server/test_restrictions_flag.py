"""Restricted protocols: what the flag may say, and that no mistake in it shows the secret."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.config import ServerOptions
from penstock.config_sources import read_options
from penstock.restrictions import GROUPS, describe_restrictions, read_restrictions
from penstock.rpc import Category
from penstock.worker_channel import Assignment
from penstock_runtime.errors import InvalidArgument

SECRET = "hunter2 = it's:a, secret"
EVERYTHING = f"{','.join(GROUPS)}:admin-key={SECRET}"
HEADER = "triton-grpc-protocol-admin-key"


def fails(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """What a start with these options says before it ends."""
    with pytest.raises(SystemExit):
        read_options(argv, environ)
    return capsys.readouterr().err


def test_the_groups_are_those_of_triton() -> None:
    """A start command of Triton's means the same here."""
    assert set(GROUPS) == {
        "health",
        "metadata",
        "inference",
        "shared-memory",
        "model-config",
        "model-repository",
        "statistics",
        "trace",
        "logging",
    }


def test_everything_behind_the_first_equals_sign_is_the_value() -> None:
    """A secret may hold any character that the flag itself uses."""
    found = read_restrictions((f"health,trace:Admin-Key={SECRET}", "logging:b=other"))

    assert set(found) == {Category.HEALTH, Category.TRACE, Category.LOGGING}
    assert found[Category.HEALTH].header == HEADER
    found[Category.TRACE].check({HEADER: SECRET})
    found[Category.LOGGING].check({"triton-grpc-protocol-b": "other"})


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (("x:k=v",), "unknown restricted protocol 'x', expected one of health, metadata"),
        (("reflection:k=v",), "unknown restricted protocol 'reflection'"),
        (("health,health:k=v",), "protocol 'health' can not be specified in multiple config"),
        (("health:k=v", "trace,health:a=b"), "protocol 'health' can not be specified in multiple"),
        (("Health:k=v",), "a group is not a name"),
        (("health,:k=v",), "a group is not a name"),
        (("health, trace:k=v",), "a group is not a name"),
        (("",), "a part is missing"),
        (("health",), "a part is missing"),
        (("health:k",), "a part is missing"),
        (("health:k=",), "a part is missing"),
        (("health:=v",), "a part is missing"),
        ((":k=v",), "a part is missing"),
        (("health:k k=v",), "expected a key"),
        (("health:k-bin=v",), "expected a key"),
        ((f"health:{'k' * 129}=v",), "expected a key of at most 128"),
        (("health:k= v",), "without blanks around it, got 2 characters"),
        (("health:k=schlüssel",), "printable ASCII"),
        (("health:k=a\nb",), "printable ASCII"),
        ((f"health:k={'v' * 4097}",), "at most 4096"),
    ],
)
def test_what_cannot_be_meant_ends_the_start_and_says_what_was_expected(
    values: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By flag, and for a server that is made in a program."""
    argv = [f"--grpc-restricted-protocol={value}" for value in values]

    assert part in fails(capsys, *argv)
    with pytest.raises(InvalidArgument, match="--grpc-restricted-protocol: "):
        read_restrictions(values)


def test_the_environment_and_the_file_say_the_same_as_the_flag(tmp_path: Path) -> None:
    """Groups are separated by commas, so values in the environment are by semicolons."""
    values = ("health,trace:k=v", "logging:l=w")
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"grpc-restricted-protocol": list(values)}))

    flags = read_options([f"--grpc-restricted-protocol={value}" for value in values], {})
    variables = read_options((), {"PENSTOCK_GRPC_RESTRICTED_PROTOCOL": "; ".join(values)})

    files = read_options((f"--config-file={file}",), {})

    assert flags.grpc_restricted_protocol == values
    assert variables.grpc_restricted_protocol == values
    assert files.grpc_restricted_protocol == values


def test_a_process_of_several_is_told_the_restrictions() -> None:
    """Its options are those of the supervisor."""
    options = ServerOptions(grpc_restricted_protocol=(EVERYTHING,))

    told = Assignment.decode(Assignment(1, True, 2, (), options).encode())

    assert told.options.grpc_restricted_protocol == (EVERYTHING,)
    assert SECRET not in repr(told)


@pytest.mark.parametrize(
    "value",
    [
        f"health:{SECRET}",
        f"health={SECRET}",
        f"healh:k={SECRET}",
        f"health:k={SECRET}\u00e9",
        f"health:K K={SECRET}",
        f"k={SECRET}:health",
        SECRET,
    ],
)
def test_a_mistake_in_the_flag_does_not_show_the_secret(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it stands: in the flag, misspelt flags, the environment, the file."""
    file = tmp_path / "options.yaml"
    file.write_text(f'grpc-restricted-protocol: ["{value}"\n')
    said = [
        fails(capsys, f"--grpc-restricted-protocol={value}"),
        fails(capsys, f"--grpc-restricted-protocl={value}"),
        fails(capsys, PENSTOCK_GRPC_RESTRICTED_PROTOCOL=value),
        fails(capsys, f"--config-file={file}"),
    ]
    for text in (value, value.replace(" ", "")):
        assert main(["serve", f"--grpc-restricted-protocl={text}"]) == 2
        said.append(capsys.readouterr().err)

    assert all(said)
    assert "did you mean --grpc-restricted-protocol?" in said[-1]
    assert not [text for text in said if "hunter2" in text]


def test_options_and_restrictions_do_not_show_the_secret() -> None:
    """Neither printed nor described; a process is told it, by `asdict`."""
    options = ServerOptions(grpc_restricted_protocol=(EVERYTHING,))
    restrictions = read_restrictions(options.grpc_restricted_protocol)

    assert "hunter2" not in repr(options) + str(options) + repr(dict(restrictions))
    assert "hunter2" in str(asdict(options))
    assert describe_restrictions(read_restrictions(("health,trace:k=v",))) == (
        "health (triton-grpc-protocol-k), trace (triton-grpc-protocol-k)"
    )
