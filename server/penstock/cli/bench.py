"""`penstock bench`: a closed loop of load against one model, as a table."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict

from penstock.cli.command import CommandError, name_and_value, positive
from penstock.cli.connection import add_connection, connected, tls_of
from penstock.cli.infer import make_inputs
from penstock.cli.load_generator import Load, run_load
from penstock.cli.measurement import Sample, Summary, summarise
from penstock.cli.progress import Progress
from penstock.cli.server_process import find_server
from penstock.cli.terminal import table
from penstock.client import calls

DESCRIPTION = """Keep a number of requests in flight against one model, each followed by the next
as soon as it is answered, and print throughput, latencies and, for a server on this machine, the
CPU that it used. The client is one Python process: where its CPU nears 1 core it is the client
that is measured."""
EXAMPLES = (
    "penstock bench add_sub",
    "penstock bench minilm --input TEXT='a sentence' --concurrency 1,8,32 --duration 10",
    "penstock bench repeat --stream --json",
)
HEAD = (
    *("IN FLIGHT", "REQ/S", "MSG/S", "P50", "P90", "P99", "MAX", "ERRORS"),
    *("SERVER CPU", "REQ/CPU-S", "CLIENT CPU"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("--version", default="", help="version to ask (default: the latest)")
    parser.add_argument(
        "--concurrency",
        type=concurrencies,
        default=(1, 8, 32),
        metavar="N,N,...",
        help="requests in flight, one row of the table for each (default 1,8,32)",
    )
    parser.add_argument(
        "--duration", type=positive, default=5.0, metavar="S", help="seconds a row (default 5)"
    )
    parser.add_argument(
        "--warmup", type=positive, default=1.0, metavar="S", help="seconds before it (default 1)"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an input, as for penstock infer; the others are made up",
    )
    parser.add_argument("--stream", action="store_true", help="use ModelStreamInfer")
    parser.add_argument("--json", action="store_true", help="print JSON, a row a line")
    add_connection(parser)


def concurrencies(text: str) -> tuple[int, ...]:
    """An argument that lists numbers above 0."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers above 0 with commas, got {text!r}")
    return numbers


def run(args: argparse.Namespace) -> int:
    """Measure each concurrency and print the table; 1 when requests failed."""
    load = _load(args)
    server = find_server(args.url)
    samples = []
    for concurrency in args.concurrency:
        seconds = args.warmup + args.duration
        with Progress(f"{args.model}, {concurrency} in flight", seconds) as progress:
            try:
                samples.append(
                    run_load(load, concurrency, args.warmup, args.duration, server, progress.update)
                )
            except TimeoutError:
                raise CommandError(f"no connection to {args.url} within {args.timeout} s") from None
    _print(samples, args.json)
    return 1 if any(sample.errors for sample in samples) else 0


def _load(args: argparse.Namespace) -> Load:
    with connected(args) as client:
        metadata = client.model_metadata(args.model, args.version)
    inputs = make_inputs(metadata, dict(args.input), made_up=True)
    request = calls.infer(args.model, inputs, version=args.version).request
    metadata_pairs = tuple(args.metadata)
    return Load(args.url, request, args.stream, args.timeout, metadata_pairs, tls_of(args))


def _print(samples: list[Sample], as_lines: bool) -> None:
    summaries = [summarise(sample) for sample in samples]
    if as_lines:
        for summary in summaries:
            print(json.dumps(asdict(summary)))
    else:
        rows = [_row(summary) for summary in summaries]
        print(table(HEAD, rows, numbers=range(len(HEAD))))
    errors: Counter[str] = Counter()
    for sample in samples:
        errors.update(sample.errors)
    for text, count in errors.most_common(5):
        print(f"{count} x {text}", file=sys.stderr)


def _row(summary: Summary) -> tuple[str, ...]:
    server, rate = summary.server_cpu, summary.requests_per_cpu_s
    latencies = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.max_ms)
    return (
        str(summary.concurrency),
        f"{summary.requests_per_s:,.0f}",
        f"{summary.messages_per_s:,.0f}",
        *(f"{each:.2f} ms" for each in latencies),
        str(summary.errors),
        "-" if server is None else f"{server:.2f}",
        "-" if rate is None else f"{rate:,.0f}",
        f"{summary.client_cpu:.2f}",
    )
