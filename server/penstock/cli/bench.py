"""`penstock bench`: load against one model, closed or open loop, as a table and a picture."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict

from penstock.bench.bars import ASCII, FANCY, draw
from penstock.bench.charts import chart
from penstock.bench.compare import compare, read_rows
from penstock.bench.loops import Clocks, LoadRun, Plan
from penstock.bench.meter import Meter
from penstock.bench.quiet import quiet
from penstock.bench.report import csv_of, label_of, ratios_of, table_of, warnings_of
from penstock.bench.sample import Level, Sample
from penstock.bench.search import RateSearch
from penstock.bench.slo import judge
from penstock.bench.summary import Summary, summarise
from penstock.cli.bench_options import add_arguments, check
from penstock.cli.bench_requests import Opener, bodies_of, opener
from penstock.cli.command import CommandError
from penstock.cli.connection import explain
from penstock.cli.progress import Progress
from penstock.cli.server_process import find_server
from penstock.cli.terminal import Paint, draws_blocks, plain, table
from penstock.client.errors import InferenceError

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]

DESCRIPTION = """Put load on one model and print throughput, latencies and, for a server on this
machine, the CPU that it used. A closed loop (--concurrency) keeps so many calls in flight; an open
loop (--rate) sends on a schedule, whatever the server does, and counts latency from when a call was
due. The client is one process and says so when it is itself what is measured."""
EXAMPLES = (
    "penstock bench add_sub",
    "penstock bench add_sub --rate 1k,2k,5k --arrivals poisson --plot latency.svg",
    "penstock bench add_sub --slo 'p99<20ms,errors<0.1%' --find-max",
    "penstock bench minilm --input TEXT='a sentence' --input TEXT='another one' --duration 10",
    "penstock bench minilm --inputs-file texts.jsonl --random 1 --concurrency 32",
    "penstock bench echo --body request.bin --fresh-id --fresh-metadata --connections 8",
    "penstock bench repeat --stream --concurrency 8",
    "penstock bench add_sub --json | tee before.json",
    "penstock bench add_sub --compare before.json",
)
_PROBE = Level(concurrency=64)
_PROBE_S = 1.0


def run(args: argparse.Namespace) -> int:
    """Measure each load and print the rows; 1 when calls failed or a goal was missed."""
    check(args)
    old = _read_old(args)
    try:
        bench = _Bench(args, opener(args, bodies_of(args)))
        code = bench.find_max() if args.find_max else bench.measure(_levels(args))
    except InferenceError as error:
        raise CommandError(explain(error, args.url)) from None
    _print(args, bench.rows, old)
    if bench.interrupted:
        raise KeyboardInterrupt
    return code


def _levels(args: argparse.Namespace) -> list[Level]:
    if args.rate:
        return [Level(rate=rate, arrivals=args.arrivals) for rate in args.rate]
    return [Level(concurrency=number) for number in args.concurrency or (1, 8, 32)]


class _Bench:
    """Measures loads one after the other and keeps their rows."""

    def __init__(self, args: argparse.Namespace, open_carrier: Opener) -> None:
        self.rows: list[Summary] = []
        self.interrupted = False
        self._args = args
        self._open_carrier = open_carrier
        self._server = find_server(args.url)

    def measure(self, levels: Sequence[Level]) -> int:
        """Measure these loads; the exit code."""
        met = True
        for level in levels:
            sample = self._try(level)
            if sample is None:
                break
            met &= self._meets(sample) if self._args.slo else not sample.failures
        return 0 if met else 1

    def find_max(self) -> int:
        """Search the highest rate that meets the goals; the exit code."""
        args = self._args
        search = RateSearch(args.rate[0] if args.rate else self._guess())
        while (rate := search.next_rate()) is not None:
            sample = self._try(Level(rate=rate, arrivals=args.arrivals))
            if sample is None:
                break
            search.tell(rate, self._meets(sample), sample.calls_per_s)
        self.rows.sort(key=lambda row: row.rate or 0)
        terms = ",".join(limit.text for limit in args.slo)
        if search.best is None:
            print(f"no rate meets {terms}", file=sys.stderr)
            return 1
        print(f"{search.best:,.10g} req/s is the highest rate that meets {terms}", file=sys.stderr)
        return 0

    def _guess(self) -> float:
        """Where to begin: at half of what a closed loop gets through."""
        plan = Plan(_PROBE_S, min(self._args.warmup, _PROBE_S), timeout_s=self._args.timeout)
        return max(self._sample(_PROBE, plan).calls_per_s / 2, 1.0)

    def _meets(self, sample: Sample) -> bool:
        """Whether a sample meets the goals; says of each how it stands."""
        verdicts = judge(self._args.slo, sample)
        paint = Paint(sys.stderr)
        met = sample.kept and all(verdict.met for verdict in verdicts)
        said = "; ".join(map(str, verdicts)) + ("" if sample.kept else "; rate not kept")
        print(f"{sample.level}: {paint(said, 'green' if met else 'red')}", file=sys.stderr)
        return met

    def _plan(self) -> Plan:
        args = self._args
        return Plan(
            args.duration,
            args.warmup,
            args.requests,
            args.max_in_flight,
            args.timeout,
            args.random or 0,
        )

    def _try(self, level: Level) -> Sample | None:
        """Measure a load and keep its row; None when the user has had enough."""
        args = self._args
        try:
            sample = self._sample(level, self._plan())
        except KeyboardInterrupt:
            self.interrupted = True
            return None
        self.rows.append(summarise(sample, args.model, args.client, args.connections))
        return sample

    def _sample(self, level: Level, plan: Plan) -> Sample:
        clocks = Clocks(server_cpu=self._server.cpu_clock()) if self._server else Clocks()
        seconds = plan.warmup_s + (0 if plan.requests else plan.duration_s)
        with (
            closing(self._open_carrier(Meter())) as carrier,
            Progress(f"{self._args.model}, {level}", seconds) as progress,
            quiet(),
        ):
            return LoadRun(carrier, level, plan, clocks, progress.update).run()


def _read_old(args: argparse.Namespace) -> list[Mapping[str, object]]:
    if args.compare is None:
        return []
    try:
        return read_rows(args.compare.read_text())
    except ValueError as error:
        raise CommandError(f"{args.compare}: {error}") from None


def _print(
    args: argparse.Namespace, rows: Sequence[Summary], old: Sequence[Mapping[str, object]]
) -> None:
    labels = [label_of(row) for row in rows]
    if args.json:
        for row in rows:
            print(json.dumps(asdict(row)))
    elif args.csv:
        print(csv_of(rows), end="")
    else:
        head, lines = table_of(rows, args.stream)
        print(table(head, lines, numbers=range(len(head))))
        for line in ("", *draw(rows, labels, FANCY if draws_blocks(sys.stdout) else ASCII)):
            print(line)
    if old:
        head, lines = ratios_of(rows, compare(rows, old))
        print("\n" + table(head, lines, numbers=range(1, len(head))))
    if args.plot is not None:
        args.plot.write_text(chart(rows, labels, _title(args)))
    for text in warnings_of(rows):
        print(f"penstock bench: {plain(text)}", file=sys.stderr)


def _title(args: argparse.Namespace) -> str:
    kind = "streams" if args.stream else "calls"
    many = f"{args.connections} connection{'s' if args.connections > 1 else ''}"
    return f"{args.model}: {kind} to {args.url} over {args.client}, {many}"
