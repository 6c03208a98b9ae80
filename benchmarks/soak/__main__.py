"""One server under everything that clients do, for as long as wanted: does it leave traces?

    python -m benchmarks.soak [--minutes 30] [--transport http2] [--record] [--plot FILE.svg]

Exit code 1 when an answer was wrong or missing, when anything is left after the load, or when the
server's memory grew.
"""

import argparse
import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import arguments, publish
from benchmarks.server import free_port, running
from benchmarks.soak.caller import Caller, small
from benchmarks.soak.jobs import gzip, large, probe, read_stream, reload
from benchmarks.soak.load import Assignment, repeat
from benchmarks.soak.look import Lookout
from benchmarks.soak.outcome import Outcome
from benchmarks.soak.picture import picture
from benchmarks.soak.service import Crowd, build, crowd, flags
from benchmarks.soak.tally import merged, rows
from benchmarks.soak.verdict import Sample, memory, traces

from penstock.cli.terminal import table

LOOK_S = 10.0
SCRAPE_S = 2.0
PROBE_S = 0.1
SETTLE_S = 60.0
COUNTED = "twice"


def main() -> int:
    """Soak as the command line says."""
    chosen = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        repository, log = Path(folder) / "models", Path(folder) / "log"
        build(repository)
        port = free_port()
        with running(repository, *flags(chosen.transport, port, log)) as server:
            asyncio.run(_warm(server.url, repository))
            url = f"http://127.0.0.1:{port}/metrics"
            lookout = Lookout(server.pid, url, time.monotonic())
            found = _soak(chosen, server.url, repository, lookout)
        said = log.read_text() if log.is_file() else ""
    return _tell(chosen, found, said)


def _arguments() -> argparse.Namespace:
    parser = arguments("Everything that clients do, for long: does the server leave traces?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--transport", choices=("http2", "grpcio"), default="http2")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--pace", type=float, default=1.0, help="how often (1: as usual)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def _warm(url: str, repository: Path) -> None:
    """Every model once and many calls at once: threads that stay are there before the load is."""
    caller = Caller(url, "http2", 0, repository)
    models = ("echo", "slow", "twice", "stream100")
    for model in models:
        asked = [small(caller.chance, model) for _ in range(8 if model == "slow" else 64)]
        if model == "stream100":
            await asyncio.gather(*(read_stream(caller.channel(), one) for one in asked))
        else:
            await asyncio.gather(*(caller.ask("warm", caller.channel(), one) for one in asked))
    for job in (large, gzip, reload, reload):
        await job(caller)
    await caller.close()
    if caller.tally.texts:
        raise SystemExit(f"the server does not answer: {caller.tally.texts[0]}")


def _soak(chosen: argparse.Namespace, url: str, repository: Path, lookout: Lookout) -> Outcome:
    before = _settled(lookout, None)
    executed = lookout.executed(COUNTED)
    raw = chosen.transport == "http2"
    tasks = [
        Assignment(url, "http2", chosen.seed, raw, repository, chosen.pace),
        Assignment(url, "grpcio", chosen.seed + 1000, False, None, chosen.pace),
    ]
    neighbour = Caller(url, tasks[0].carrier, chosen.seed)
    with crowd(tasks) as clients, _neighbour(neighbour):
        samples = _watch(lookout, clients, chosen.minutes * 60)
        alive = clients.alive
        tally = clients.stop()
        used = clients.progress().cpu_s
    tally = merged((tally, neighbour.tally))
    print(table(("calls", "right", "ended on purpose", "wrong"), rows(tally), numbers=(1, 2, 3)))
    after = _settled(lookout, before)
    executed = lookout.executed(COUNTED) - executed
    return Outcome(before, samples, after, tally, executed, used, max(lookout.lags_s), alive)


@contextlib.contextmanager
def _neighbour(caller: Caller) -> Iterator[None]:
    """A steady caller in this process, which does nothing else."""

    async def call() -> None:
        await repeat(probe, PROBE_S, caller)
        await caller.close()

    thread = threading.Thread(target=asyncio.run, args=(call(),))
    thread.start()
    try:
        yield
    finally:
        caller.stopping = True
        thread.join()


def _watch(lookout: Lookout, clients: Crowd, length_s: float) -> list[Sample]:
    """Look every ten seconds, scrape in between, until the time is over or somebody is gone."""
    samples: list[Sample] = []
    looked = time.monotonic()
    end = looked + length_s
    while time.monotonic() < end and clients.alive:
        time.sleep(SCRAPE_S)
        progress = clients.progress()
        try:
            if time.monotonic() - looked < LOOK_S:
                lookout.scrape()
                continue
            looked += LOOK_S
            samples.append(lookout.sample(progress.calls, progress.wrong))
        except OSError as error:
            print(f"the server cannot be looked at: {error}")
            break
        print(_line(samples, progress.cpu_s), flush=True)
    if not samples:
        samples.append(lookout.sample(progress.calls, progress.wrong))
    return samples


def _line(samples: list[Sample], client_cpu_s: float) -> str:
    now = samples[-1]
    trend = memory([(one.at_s, one.rss_mb) for one in samples])
    return (
        f"{now.at_s:6.0f} s  {now.calls} calls  {now.wrong} wrong  RSS {now.rss_mb:.1f} MB"
        f" ({trend.mb_an_hour:+.1f} MB/h)  {now.descriptors} descriptors  {now.threads} threads"
        f"  {now.tasks} tasks  {now.connections} connections  {now.streams} streams  in flight"
        f" {now.inflight}, {now.inflight_bytes} B  CPU {now.cpu_s / now.at_s:.2f} +"
        f" {client_cpu_s / now.at_s:.2f}"
    )


def _settled(lookout: Lookout, before: Sample | None) -> Sample:
    """The server once it has nothing to do; as it is after a minute, if it always has."""
    end = time.monotonic() + SETTLE_S
    while True:
        now = lookout.sample()
        if not traces(before or now, now) or time.monotonic() > end:
            return now
        time.sleep(0.5)


def _tell(chosen: argparse.Namespace, found: Outcome, log: str) -> int:
    problems = found.problems(log)
    name = "soak" if chosen.transport == "http2" else f"soak, {chosen.transport}"
    publish(found.finding(name, problems, log), record=chosen.record)
    if chosen.plot is not None:
        chosen.plot.parent.mkdir(parents=True, exist_ok=True)
        title = f"{chosen.minutes:g} minutes of mixed load, --transport={chosen.transport}"
        chosen.plot.write_text(picture(found.samples, title))
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems and log:
        print("\n".join(["the end of the server's log:", *log.splitlines()[-40:]]))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
