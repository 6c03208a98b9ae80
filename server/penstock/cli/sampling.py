"""The options that say how a text is to be generated, and the sampling parameters that they mean;
the names are vLLM's.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from penstock.cli.command import CommandError, name_and_value

_SAME_NAME = ("max_tokens", "temperature", "top_p", "top_k", "seed", "n", "logprobs")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command which generates has; what is left out the server says."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer at most")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="0 takes the likeliest token, 1 as learned"
    )
    group.add_argument("--top-p", type=float, metavar="P", help="of the likeliest that make up P")
    group.add_argument("--top-k", type=int, metavar="K", help="of the K likeliest tokens")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed, the same text")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given more than once",
    )
    group.add_argument(
        "--param",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="any other sampling parameter, its value as JSON or as text"
        ' (min_p=0.1, repetition_penalty=1.1, logit_bias={"42":-100})',
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add the options that give an answer its form; at most one of them."""
    group = parser.add_argument_group("form of the answer").add_mutually_exclusive_group()
    group.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="JSON that is valid under this schema"
    )
    group.add_argument("--regex", metavar="PATTERN", help="a text that the whole pattern matches")
    group.add_argument(
        "--choice", action="append", metavar="TEXT", help="one of these texts; give each by itself"
    )


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that the arguments ask for."""
    chosen = {name: getattr(args, name, None) for name in _SAME_NAME}
    document = {name: value for name, value in chosen.items() if value is not None}
    if args.stop:
        document["stop"] = args.stop
    if getattr(args, "json_schema", None):
        document["json"] = read_schema(args.json_schema)
    for name in ("regex", "choice"):
        if getattr(args, name, None):
            document[name] = getattr(args, name)
    return document | {name: parse_value(text) for name, text in args.param}


def read_schema(path: Path) -> Any:
    """A JSON schema out of a file; CommandError says what is wrong with it."""
    try:
        schema = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--json-schema: {path} is no JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise CommandError(f"--json-schema: {path} holds no schema, expected a JSON object")
    return schema


def parse_value(text: str) -> Any:
    """A value as JSON has it, anything else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
