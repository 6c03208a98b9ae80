"""The options of every command that talks to a server, and the client that they describe."""

import argparse
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.cli.command import CommandError, name_and_value, seconds
from penstock.client.channel import TLS
from penstock.client.errors import InferenceError
from penstock.client.retry import NO_RETRIES, RetryPolicy
from penstock.client.sync import Client
from penstock_runtime.errors import Status

# As our own transport and gRPC's library say it.
_NOBODY = ("failed to connect", "dns resolution failed", "connection refused")
_WRONG = ("tls with", "handshake", "can be no name")


def add_connection(parser: argparse.ArgumentParser, timeout: float = 30.0) -> None:
    """Add the group of options that say which server, and how; a call may take `timeout` s."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("PENSTOCK_URL", "localhost:8001"),
        help="host:port or unix:/path of the server, several with commas"
        " (default: $PENSTOCK_URL, or localhost:8001)",
    )
    group.add_argument(
        "--timeout",
        type=deadline,
        default=timeout,
        metavar="S",
        help=f"deadline of a call, inf for none (default {timeout:g})",
    )
    group.add_argument(
        "--metadata",
        action="append",
        default=[],
        type=name_and_value,
        metavar="KEY=VALUE",
        help="metadata to send along; may be given more than once",
    )
    group.add_argument(
        "--token",
        default=os.environ.get("PENSTOCK_TOKEN", ""),
        help="who is calling, for a server that asks: sent as 'authorization: Bearer TOKEN'"
        " (default: $PENSTOCK_TOKEN)",
    )
    group.add_argument("--tls", action="store_true", help="use TLS")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="authorities to trust (PEM)")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="own certificate (mutual TLS)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="own key (mutual TLS)")


def deadline(text: str) -> float:
    """An argument that is a time, or inf for none."""
    return math.inf if text == "inf" else seconds(text)


def metadata_of(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The metadata of every call; CommandError names what cannot be sent."""
    from penstock.transport.http2.metadata import encode_metadata

    try:
        encode_metadata(args.metadata)
    except ValueError as error:
        raise CommandError(f"--metadata: {error}") from None
    if not args.token:
        return tuple(args.metadata)
    token = ("authorization", f"Bearer {args.token}")
    try:
        encode_metadata([token])
    except ValueError:
        raise CommandError("--token: expected printable ASCII characters") from None
    return (*args.metadata, token)


@contextmanager
def explaining_url(url: str) -> Iterator[None]:
    """What is wrong with the URL becomes a plain line."""
    try:
        yield
    except ValueError as error:
        raise CommandError(f"--url: {error}") from None
    except socket.gaierror as error:
        raise CommandError(f"--url: {url}: {error.strerror}") from None


def tls_of(args: argparse.Namespace) -> TLS | None:
    """The TLS settings of the arguments; any of the files switches TLS on."""
    if args.tls_key and not args.tls_cert:
        raise CommandError("--tls-key needs --tls-cert, the certificate that the key belongs to")
    if not (args.tls or args.tls_ca or args.tls_cert or args.tls_key):
        return None
    return TLS(args.tls_ca, args.tls_key, args.tls_cert)


@contextmanager
def connected(args: argparse.Namespace, retries: RetryPolicy = NO_RETRIES) -> Iterator[Client]:
    """A client of the server that the arguments name; its errors become plain lines."""
    metadata = metadata_of(args)
    tls = tls_of(args)
    with explaining_url(args.url):
        client = Client(
            args.url,
            timeout=args.timeout,
            retries=retries,
            metadata=dict(metadata),
            tls=tls,
        )
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
    """Whether the call failed because nothing listens there: not where the name is none, nor where
    something listens and its TLS is not ours.
    """
    text = error.message.lower()
    return (
        error.status is Status.UNAVAILABLE
        and any(each in text for each in _NOBODY)
        and not any(each in text for each in _WRONG)
    )
