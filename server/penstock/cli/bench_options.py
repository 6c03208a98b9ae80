"""The options of `penstock bench`, and what they may not say together."""

import argparse
import math
from pathlib import Path

from penstock.bench.schedule import KINDS
from penstock.bench.slo import Limit, parse_slo
from penstock.cli.command import CommandError, name_and_value, seconds
from penstock.cli.connection import add_connection

CLIENTS = ("http2", "grpcio")
MOST_CONNECTIONS = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options, in groups."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("--version", default="", help="version to ask (default: the latest)")
    _add_load(parser.add_argument_group("load (one row of the table for each number)"))
    _add_requests(parser.add_argument_group("what is sent"))
    _add_goals(parser.add_argument_group("goals"))
    _add_output(parser.add_argument_group("output"))
    add_connection(parser)


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--concurrency",
        type=counts,
        metavar="N,N,...",
        help="closed loop: calls in flight, each followed by the next once it is answered"
        " (default 1,8,32)",
    )
    group.add_argument(
        "--rate",
        type=rates,
        metavar="R,R,...",
        help="open loop: calls a second on a schedule that does not wait for the server;"
        " latencies count from when a call was due",
    )
    group.add_argument(
        "--arrivals",
        choices=KINDS,
        default="fixed",
        help="distances of an open loop: even, or those of independent callers (default fixed)",
    )
    group.add_argument(
        "--max-in-flight",
        type=count,
        default=1000,
        metavar="N",
        help="calls that an open loop has in flight at most; the rest waits (default 1000)",
    )
    group.add_argument(
        "--duration", type=seconds, default=5.0, metavar="S", help="seconds a row (default 5)"
    )
    group.add_argument(
        "--requests", type=count, metavar="N", help="so many calls a row, instead of a duration"
    )
    group.add_argument(
        "--warmup", type=seconds, default=1.0, metavar="S", help="seconds before it (default 1)"
    )
    group.add_argument(
        "--connections", type=connections, default=1, metavar="N", help="connections (default 1)"
    )
    group.add_argument(
        "--client",
        choices=CLIENTS,
        default="http2",
        help="what carries the calls: our own HTTP/2, or grpcio, which costs about 20 times"
        " as much CPU (default http2)",
    )


def _add_requests(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an input, as for penstock infer; the others are made up."
        " A name that comes again begins the next request",
    )
    group.add_argument(
        "--inputs-file",
        type=Path,
        metavar="FILE",
        help='requests as JSON, one a line: {"NAME": VALUE, ...}',
    )
    group.add_argument(
        "--body",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a serialised ModelInferRequest, sent as it is; may be given more than once",
    )
    group.add_argument(
        "--random",
        type=int,
        metavar="SEED",
        help="draw requests (and poisson arrivals) from this seed; else they take turns",
    )
    group.add_argument("--fresh-id", action="store_true", help="an id of its own for each call")
    group.add_argument(
        "--fresh-metadata",
        action="store_true",
        help="a traceparent and a deadline of its own for each call",
    )
    group.add_argument("--stream", action="store_true", help="use ModelStreamInfer")


def _add_goals(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slo",
        type=limits,
        metavar="TERMS",
        help="limits with commas between, as in p99<20ms,errors<0.1%%; the exit code is 1 if a row"
        " misses one",
    )
    group.add_argument(
        "--find-max",
        action="store_true",
        help="search the highest rate that meets --slo, within 5 %%",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON, a row a line")
    how.add_argument("--csv", action="store_true", help="print CSV")
    group.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw latency and throughput")
    group.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="print ratios to what --json printed once"
    )


def check(args: argparse.Namespace) -> None:
    """CommandError when options contradict each other."""
    if args.rate and args.concurrency:
        raise CommandError("--rate and --concurrency are two kinds of load, expected one of them")
    if args.find_max and not args.slo:
        raise CommandError("--find-max needs --slo, as in --slo 'p99<20ms'")
    if args.find_max and (args.concurrency or (args.rate and len(args.rate) > 1)):
        raise CommandError("--find-max chooses the rates itself, expected at most one --rate")
    if math.isinf(args.timeout):
        raise CommandError("--timeout is inf, and a load has to end: expected seconds")
    if args.compare and (args.json or args.csv):
        raise CommandError(
            "--compare prints a table of ratios, expected neither --json nor --csv beside it"
        )
    _check_requests(args)


def _check_requests(args: argparse.Namespace) -> None:
    if args.body and (args.input or args.inputs_file):
        raise CommandError("--body is a whole request, expected no --input beside it")
    if args.input and args.inputs_file:
        raise CommandError("--input and --inputs-file were both given, expected one of them")


def counts(text: str) -> tuple[int, ...]:
    """An argument that lists whole numbers above 0."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers above 0 with commas, got {text!r}")
    return numbers


def rates(text: str) -> tuple[float, ...]:
    """An argument that lists numbers above 0; k stands for a thousand."""
    try:
        numbers = tuple(
            float(part.removesuffix("k")) * (1000 if part.endswith("k") else 1)
            for part in text.split(",")
        )
    except ValueError:
        numbers = ()
    if not numbers or not all(1e-3 <= number <= 1e7 for number in numbers):
        raise argparse.ArgumentTypeError(
            f"expected calls a second (0.001 to 10,000,000) with commas, got {text!r}"
        )
    return numbers


def count(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def connections(text: str) -> int:
    """An argument that is a number of connections."""
    number = count(text)
    if number > MOST_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_CONNECTIONS}, got {number}")
    return number


def limits(text: str) -> tuple[Limit, ...]:
    """An argument with the terms of a service level."""
    try:
        return parse_slo(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
