"""The options of every command that talks to a server, and the client that they describe."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.cli.command import CommandError, name_and_value, positive
from penstock.client.channel import TLS
from penstock.client.errors import InferenceError
from penstock.client.retry import NO_RETRIES, RetryPolicy
from penstock.client.sync import Client
from penstock_runtime.errors import Status


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the group of options that say which server, and how."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("PENSTOCK_URL", "localhost:8001"),
        help="host:port or unix:/path of the server, several with commas"
        " (default: $PENSTOCK_URL, or localhost:8001)",
    )
    group.add_argument(
        "--timeout",
        type=positive,
        default=30.0,
        metavar="S",
        help="deadline of a call (default 30)",
    )
    group.add_argument(
        "--metadata",
        action="append",
        default=[],
        type=name_and_value,
        metavar="KEY=VALUE",
        help="metadata to send along; may be given more than once",
    )
    group.add_argument("--tls", action="store_true", help="use TLS")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="authorities to trust (PEM)")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="own certificate (mutual TLS)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="own key (mutual TLS)")


def tls_of(args: argparse.Namespace) -> TLS | None:
    """The TLS settings of the arguments; any of the files switches TLS on."""
    if not (args.tls or args.tls_ca or args.tls_cert or args.tls_key):
        return None
    return TLS(args.tls_ca, args.tls_key, args.tls_cert)


@contextmanager
def connected(args: argparse.Namespace, retries: RetryPolicy = NO_RETRIES) -> Iterator[Client]:
    """A client of the server that the arguments name; its errors become plain lines."""
    try:
        client = Client(
            args.url,
            timeout=args.timeout,
            retries=retries,
            metadata=dict(args.metadata),
            tls=tls_of(args),
        )
    except ValueError as error:
        raise CommandError(f"--url: {error}") from None
    with client:
        try:
            yield client
        except InferenceError as error:
            raise CommandError(explain(error, args.url)) from error


def explain(error: InferenceError, url: str) -> str:
    """The error in one line; a server that is not there gets the way to start one."""
    if is_unreachable(error):
        return f"no server answers at {url}; start one with: penstock serve MODEL_REPOSITORY"
    wrong = "; ".join(f"{each.field}: {each.description}" for each in error.violations)
    return f"{error}{' (' + wrong + ')' if wrong else ''}"


def is_unreachable(error: InferenceError) -> bool:
    """Whether the call failed because nothing listens there."""
    text = error.message.lower()
    return error.status is Status.UNAVAILABLE and (
        "failed to connect" in text
        or "dns resolution failed" in text
        or "connection refused" in text
    )
