"""`penstock selftest`: a round of checks against any live server of the v2 protocol."""

import argparse
import sys
from collections.abc import Callable

from penstock.cli.command import CommandError
from penstock.cli.connection import add_connection, connected, explain, is_unreachable, tls_of
from penstock.cli.selftest_checks import CHECKS
from penstock.cli.selftest_target import Failed, Skipped, Target
from penstock.cli.selftest_wire import Wire
from penstock.cli.terminal import Paint, plain
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_runtime.errors import Status

DESCRIPTION = """Check that a live server keeps the v2 protocol, one line a check: ok, skip where
the server does not offer the extension, or FAIL with what came instead of what. It works with any
server of the protocol and changes nothing on it. The exit code is 1 if a check failed."""
EXAMPLES = (
    "penstock selftest",
    "penstock selftest --model add_sub --url gpu-host:8001",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--model", default="", help="model to ask (default: one that is READY)")
    parser.add_argument("--version", default="", help="its version (default: the latest)")
    add_connection(parser)
    parser.set_defaults(timeout=10.0)


def run(args: argparse.Namespace) -> int:
    """Run every check; 1 when one failed."""
    with connected(args) as client, Wire(args.url, tls_of(args), args.timeout) as wire:
        model = args.model or choose_model(client)
        target = Target(client, wire, model, args.version)
        outcomes = [_run_check(name, check, target, args.url) for name, check in CHECKS]
    failed = outcomes.count("FAIL")
    print(f"{outcomes.count('ok')} ok, {outcomes.count('skip')} skipped, {failed} failed")
    return 1 if failed else 0


def choose_model(client: Client) -> str:
    """A READY model that answers one request with one response."""
    try:
        ready = [entry.name for entry in client.index(ready=True)]
    except InferenceError as error:
        if error.status is Status.UNIMPLEMENTED:
            raise CommandError("the server has no index of its models, expected --model") from None
        raise
    for name in ready:
        if not _is_decoupled(client, name):
            return name
    raise CommandError("no model of the server is READY and answers one by one, expected --model")


def _is_decoupled(client: Client, name: str) -> bool:
    try:
        return client.model_config(name).model_transaction_policy.decoupled
    except InferenceError as error:
        if error.status is Status.UNIMPLEMENTED:
            return False
        raise


def _run_check(name: str, check: Callable[[Target], None], target: Target, url: str) -> str:
    outcome, reason = "ok", ""
    try:
        check(target)
    except Skipped as skipped:
        outcome, reason = "skip", str(skipped)
    except Failed as failed:
        outcome, reason = "FAIL", str(failed)
    except InferenceError as error:
        if is_unreachable(error):
            raise CommandError(explain(error, url)) from error
        outcome, reason = "FAIL", f"the call failed: {error}"
    colour = {"ok": "green", "skip": "yellow", "FAIL": "red"}[outcome]
    tail = f": {plain(' '.join(reason.split()))}" if reason else ""
    print(f"{Paint(sys.stdout)(f'{outcome:4}', colour)} {name}{tail}", flush=True)
    return outcome
