"""`penstock calls`: the record of what language models were asked, listed and searched."""

import argparse
import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

from penstock.cli.call_records import Found, Search, parse_since, read_lines, search
from penstock.cli.call_table import full, render
from penstock.cli.terminal import Paint, is_terminal

DESCRIPTION = """List the calls that a language model has answered, newest first: who asked, how
many tokens went in, came out of the prefix cache and came out, how long the first took and all of
them, and why it ended. A server writes such a record with `--call-log FILE`, and what was asked
and answered with `--call-log-content`."""
EXAMPLES = (
    "penstock calls /var/log/calls.jsonl",
    "penstock calls calls.jsonl --failed --since 2h",
    "penstock calls calls.jsonl --slowest 5 --model gemma",
    "penstock calls calls.jsonl --grep 'quarterly report' --full",
    "penstock calls calls.jsonl --limit 0 --json | jq .ttft_ms",
)
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the record; - is standard input")
    parser.add_argument("--grep", default="", metavar="TEXT", help="calls that have this text")
    parser.add_argument("--model", default="", metavar="MODEL", help="calls of this model")
    parser.add_argument(
        "--since", type=_since, metavar="WHEN", help="calls since then: 15m, 2h, 3d, or a date"
    )
    parser.add_argument("--failed", action="store_true", help="calls that failed")
    parser.add_argument("--slowest", type=_count, metavar="N", help="the N that took longest")
    parser.add_argument(
        "--limit",
        type=_count,
        default=SHOWN,
        metavar="N",
        help=f"show so many (default {SHOWN}, 0 for all)",
    )
    parser.add_argument("--full", action="store_true", help="show all that is known of each")
    parser.add_argument("--json", action="store_true", help="print JSON, a call a line")


def _since(text: str) -> datetime:
    try:
        return parse_since(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 if there is nothing."""
    wanted = Search(args.grep, args.model, args.since, args.failed)
    slowest = args.slowest is not None
    limit = args.slowest if slowest else args.limit
    found = search(read_lines(args.file), wanted, limit, slowest)
    if args.json:
        for record in found.records:
            print(json.dumps(record, ensure_ascii=False))
        return 0 if found.records else 1
    paint = Paint(sys.stdout)
    if args.full:
        print("\n\n".join(full(record, paint) for record in found.records))
    elif found.records:
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
        print(render(found.records, width, paint, datetime.now().astimezone()))
    _tell(found)
    return 0 if found.records else 1


def _tell(found: Found) -> None:
    """How many there are, beside the table."""
    said = [f"{len(found.records):,} of {found.count:,} calls"] if found.count else ["no calls"]
    if found.failed:
        said.append(f"{found.failed:,} failed")
    if found.unreadable:
        said.append(f"{found.unreadable:,} lines are no record")
    print(Paint(sys.stderr)(", ".join(said), "dim"), file=sys.stderr)
