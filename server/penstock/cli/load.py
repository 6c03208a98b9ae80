"""`penstock load`: load or reload one model of a running server."""

import argparse
import time
from pathlib import Path

from penstock.cli.command import CommandError, name_and_value
from penstock.cli.connection import add_connection, connected

DESCRIPTION = """Load a model, or load it anew from its directory, and wait until it serves. While
the new one is built the old one goes on answering; if the new one fails the old one stays, and the
reason is printed here. The server must have been started with --model-control-mode=explicit."""
EXAMPLES = (
    "penstock load digits",
    """penstock load digits --config '{"max_batch_size": 64}'""",
    "penstock load extra --config extra.json --file 1/model.py=build/model.py",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument(
        "--config", metavar="JSON", help="configuration to use instead: JSON, or a file of it"
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        type=name_and_value,
        metavar="VERSION/NAME=PATH",
        help="a file to use instead of the model's directory; may be given more than once",
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the server, and say how long it took."""
    files = {name: Path(path).read_bytes() for name, path in args.file}
    began = time.monotonic_ns()
    with connected(args) as client:
        client.load(args.model, read_config(args.config), files or None)
    print(f"{args.model} is loaded, {(time.monotonic_ns() - began) / 1e9:.2f} s")
    return 0


def read_config(text: str | None) -> str | None:
    """The configuration of an argument that is JSON itself, or the path of a file of it."""
    if text is None or text.lstrip().startswith("{"):
        return text
    path = Path(text)
    if path.suffix == ".pbtxt":
        raise CommandError(f"--config {text}: expected JSON, as the protocol carries no pbtxt")
    return path.read_text()
