"""`penstock unload`: unload one model of a running server."""

import argparse

from penstock.cli.connection import add_connection, connected

DESCRIPTION = """Unload a model. Requests that are already inside are answered, later ones get
NOT_FOUND or UNAVAILABLE, and the memory of the model is given back. The server must have been
started with --model-control-mode=explicit."""
EXAMPLES = (
    "penstock unload digits",
    "penstock unload pipeline --dependents",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument(
        "--dependents", action="store_true", help="also unload what only this model needed"
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the server."""
    with connected(args) as client:
        client.unload(args.model, unload_dependents=args.dependents)
    print(f"{args.model} is unloaded")
    return 0
