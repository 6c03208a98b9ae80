"""`penstock health`: the health of a server, for people and for probes."""

import argparse
import sys

from penstock.cli.connection import add_connection, connected, explain
from penstock.cli.terminal import Paint
from penstock.client.errors import InferenceError

DESCRIPTION = """Ask a server for its health by the gRPC health protocol. The exit code is 0 when
the answer is SERVING and 1 when it is anything else, or when no server answers: it serves as an
exec probe of a container. Services are readiness, liveness, model:NAME and model:NAME/VERSION; the
empty one stands for the server as a whole."""
EXAMPLES = (
    "penstock health",
    "penstock health --service readiness --timeout 2",
    "penstock health --service model:digits --url unix:/run/penstock.sock",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--service", default="", help="what to ask for (default: the server)")
    add_connection(parser)
    parser.set_defaults(timeout=5.0)


def run(args: argparse.Namespace) -> int:
    """Print the status; 0 only for SERVING."""
    with connected(args) as client:
        try:
            status = client.health(args.service)
        except InferenceError as error:
            print(explain(error, args.url), file=sys.stderr)
            return 1
    healthy = status == "SERVING"
    print(Paint(sys.stdout)(status, "green" if healthy else "red"))
    return 0 if healthy else 1
