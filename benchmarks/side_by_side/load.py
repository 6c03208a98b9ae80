"""Load on one server for one window, from a process of its own; prints its figures as JSON.

    python -m benchmarks.side_by_side.load --target HOST:PORT --path /PACKAGE.SERVICE/METHOD
        --body FILE [--body FILE] -c CONNECTIONS -m CALLS_EACH -d SECONDS -w WARMUP --pids PID,PID

Any program with these options that prints the same keys can take its place.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path

from benchmarks.peers.process import cpu_seconds

from penstock.bench.http2_carrier import Http2Carrier, dialler
from penstock.bench.http2_link import Work
from penstock.bench.loops import Clocks, LoadRun, Plan
from penstock.bench.meter import Meter
from penstock.bench.quiet import quiet
from penstock.bench.requests import Body, fresh_blocks, in_turn, with_fresh_ids
from penstock.bench.sample import Level, Sample
from penstock.bench.sockets import endpoints_of
from penstock.client.channel import TLS
from penstock.transport.http2.client_requests import request_block

TIMEOUT_S = 30.0


def options() -> argparse.ArgumentParser:
    """What this program takes."""
    parser = argparse.ArgumentParser(description="Load on one server for one window.")
    parser.add_argument("--target", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", required=True, type=Path, action="append", help="sent in turn")
    parser.add_argument("-c", dest="connections", type=int, default=1)
    parser.add_argument("-m", dest="calls_each", type=int, default=1)
    parser.add_argument("-d", dest="seconds", type=float, default=1.5)
    parser.add_argument("-w", dest="warmup", type=float, default=0.4)
    parser.add_argument("--expect-msgs", type=int, default=1, help="above 1: a stream")
    parser.add_argument("--pids", default="", help="processes of the server")
    parser.add_argument("--fresh", action="store_true", help="id, deadline, traceparent of each")
    parser.add_argument("--root", type=Path, help="speak TLS, and trust this certificate")
    return parser


def measure(chosen: argparse.Namespace) -> Sample:
    """Open the connections, and keep as many calls in flight as asked for."""
    tls = TLS(root_certificates=chosen.root) if chosen.root else None
    endpoints = endpoints_of(chosen.target)
    block = request_block(chosen.path, endpoints[0].authority, scheme="https" if tls else "http")
    read = [path.read_bytes() for path in chosen.body]
    bodies: Iterator[Body] = with_fresh_ids(read) if chosen.fresh else in_turn(read)
    blocks = fresh_blocks(block, TIMEOUT_S) if chosen.fresh else repeat(block)
    pids = [int(pid) for pid in filter(None, chosen.pids.split(","))]
    meter = Meter()
    dial = dialler(
        endpoints, tls, Work(blocks, bodies, TIMEOUT_S, chosen.expect_msgs > 1), meter, TIMEOUT_S
    )
    level = Level(concurrency=chosen.connections * chosen.calls_each)
    clocks = Clocks(server_cpu=lambda: cpu_seconds(pids))
    with closing(Http2Carrier(dial, chosen.connections, meter)) as carrier, quiet():
        return LoadRun(carrier, level, Plan(chosen.seconds, chosen.warmup), clocks).run()


def figures(sample: Sample) -> dict[str, object]:
    """The keys that are printed."""
    p50, p99 = sample.latencies.percentiles((0.5, 0.99))
    return {
        "seconds": sample.seconds,
        "ok": sample.completed,
        "errors": sample.failures,
        "rps": sample.calls_per_s,
        "msgs_per_s": sample.messages / sample.seconds,
        "p50_ms": p50 / 1e6,
        "p99_ms": p99 / 1e6,
        "server_cpu_s": sample.server_cpu_s or 0.0,
        "client_cpu_s": sample.client_cpu_s,
        "error_kinds": {
            f"{status}: {each.first}": each.count for status, each in sample.errors.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    print(json.dumps(figures(measure(options().parse_args(arguments)))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
