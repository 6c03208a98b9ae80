"""`penstock models`: the repository of a running server as a table."""

import argparse
import json
import sys

from penstock.cli.connection import add_connection, connected
from penstock.cli.terminal import Paint, plain, table
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_protos import inference as pb
from penstock_runtime.errors import Status

DESCRIPTION = """List every model version that a server knows, with its state and what it has done
since it was loaded: requests, executions (fewer than requests where batching works), the mean
time in the queue and in the model, and the reason of a model that is not ready."""
EXAMPLES = (
    "penstock models",
    "penstock models --ready --url gpu-host:8001",
    "penstock models --json | jq .",
)
HEAD = ("MODEL", "VERSION", "STATE", "ROWS", "BATCHES", "FAILED", "QUEUE", "COMPUTE", "REASON")
_COLOURS = {"READY": "green", "UNAVAILABLE": "red", "LOADING": "yellow", "UNLOADING": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--ready", action="store_true", help="only models that are READY")
    parser.add_argument("--json", action="store_true", help="print JSON, a model a line")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    with connected(args) as client:
        entries = client.index(ready=args.ready)
        figures = _statistics(client)
    rows = [_row(entry, figures.get((entry.name, entry.version))) for entry in entries]
    if args.json:
        for entry in entries:
            print(json.dumps(_object(entry, figures.get((entry.name, entry.version)))))
    elif rows:
        print(_coloured(table(HEAD, rows, numbers=(3, 4, 5, 6, 7))))
    else:
        print("the repository is empty")
    return 0


def _statistics(client: Client) -> dict[tuple[str, str], pb.ModelStatistics]:
    try:
        return {(each.name, each.version): each for each in client.statistics()}
    except InferenceError as error:
        # The extension is optional: without it the table has states alone.
        if error.status in (Status.UNIMPLEMENTED, Status.NOT_FOUND):
            return {}
        raise


def _row(
    entry: pb.RepositoryIndexResponse.ModelIndex, figures: pb.ModelStatistics | None
) -> tuple[str, ...]:
    known = (plain(entry.name), entry.version or "-", entry.state or "-")
    reason = plain(" ".join(entry.reason.split()))
    if figures is None:
        return (*known, "-", "-", "-", "-", "-", reason)
    stats = figures.inference_stats
    return (
        *known,
        str(figures.inference_count),
        str(figures.execution_count),
        str(stats.fail.count),
        _mean(stats.queue),
        _mean(stats.compute_infer),
        reason,
    )


def _object(
    entry: pb.RepositoryIndexResponse.ModelIndex, figures: pb.ModelStatistics | None
) -> dict[str, object]:
    known: dict[str, object] = {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
    }
    if figures is None:
        return known
    stats = figures.inference_stats
    return known | {
        "rows": figures.inference_count,
        "executions": figures.execution_count,
        "requests": stats.success.count,
        "failed": stats.fail.count,
        "queue_ns": stats.queue.ns,
        "compute_ns": stats.compute_infer.ns,
    }


def _mean(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e6:.2f} ms" if duration.count else "-"


def _coloured(text: str) -> str:
    paint = Paint(sys.stdout)
    if not paint.enabled:
        return text
    head, *lines = text.split("\n")
    return "\n".join([paint(head, "bold"), *(_state(line, paint) for line in lines)])


def _state(line: str, paint: Paint) -> str:
    for state, colour in _COLOURS.items():
        if f" {state} " in f"{line} ":
            return line.replace(state, paint(state, colour), 1)
    return line
