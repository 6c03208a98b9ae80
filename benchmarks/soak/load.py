"""A process of clients: runs jobs until it is told to stop, and says how it goes."""

import asyncio
import random
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.soak import jobs, rough_jobs
from benchmarks.soak.blocking_jobs import BLOCKING_JOBS
from benchmarks.soak.caller import Caller
from benchmarks.soak.tally import Tally, merged
from benchmarks.soak.wire import WIRE_JOBS

REPORT_S = 0.5
STOP_S = 60.0
_WATCHERS = 3

ASYNC_JOBS: Mapping[Callable[[Caller], Awaitable[None]], float] = {
    jobs.repeat: 0.15,
    jobs.fresh: 0.2,
    jobs.large: 1.5,
    jobs.gzip: 0.3,
    jobs.typed: 0.3,
    jobs.stream: 0.3,
    jobs.reconnect: 0.4,
    jobs.burst: 4.0,
    rough_jobs.leave_stream: 0.6,
    rough_jobs.stream_in_time: 0.6,
    rough_jobs.cancel_unary: 0.5,
    rough_jobs.too_late: 1.2,
    rough_jobs.invalid: 0.7,
    rough_jobs.reconnect_roughly: 0.8,
}
"""The seconds between two rounds of each, on average."""
RELOAD_S = 8.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one process does: its carrier, whether it also speaks by the letter, and where it
    writes models anew (None: it does not). `pace` below 1 means less often.
    """

    url: str
    carrier: str
    seed: int
    raw: bool
    repository: Path | None
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts until now, and the processor time that they took."""

    calls: int
    wrong: int
    cpu_s: float


def run(task: Assignment, pipe: Connection) -> None:
    """Run all jobs; `pipe` gets Progress now and then, takes anything as the sign to stop, and
    gets the Tally at the end.
    """
    first = Caller(task.url, task.carrier, task.seed, task.repository)
    callers = [first]
    threads = []
    blocking = {**BLOCKING_JOBS, **(WIRE_JOBS if task.raw else {})}
    for number, (job, pause_s) in enumerate(blocking.items(), 1):
        caller = replace_seed(first, task.seed + number)
        callers.append(caller)
        work = (job, pause_s / task.pace, caller, first)
        threads.append(threading.Thread(target=_repeat_blocking, args=work, name=job.__name__))
    for thread in threads:
        thread.start()
    asyncio.run(_run(task, callers, pipe))
    for thread in threads:
        thread.join(STOP_S)
        if thread.is_alive():
            first.tally.judge(thread.name, "hangs")
    pipe.send(merged(caller.tally for caller in callers))


def replace_seed(caller: Caller, seed: int) -> Caller:
    """A caller for a thread: with counts and chances of its own."""
    return replace(caller, seed=seed, tally=Tally(), channels={})


async def _run(task: Assignment, callers: list[Caller], pipe: Connection) -> None:
    first = callers[0]
    rounds = [
        asyncio.create_task(repeat(job, pause_s / task.pace, first))
        for job, pause_s in ASYNC_JOBS.items()
    ]
    rounds += [
        asyncio.create_task(repeat(jobs.watch, 1.0 / task.pace, first)) for _ in range(_WATCHERS)
    ]
    if task.repository is not None:
        rounds.append(asyncio.create_task(repeat(jobs.reload, RELOAD_S / task.pace, first)))
    while not pipe.poll():
        await asyncio.sleep(REPORT_S)
        try:
            pipe.send(progress(callers))
        except OSError:
            break
    first.stopping = True
    _, hanging = await asyncio.wait(rounds, timeout=STOP_S)
    for one in hanging:
        first.tally.judge("the end", f"{one.get_coro()} hangs")
    await first.close()


def progress(callers: list[Caller]) -> Progress:
    """The sum of all."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Progress(
        sum(caller.tally.calls for caller in callers),
        sum(caller.tally.wrong.total() for caller in callers),
        used.ru_utime + used.ru_stime,
    )


async def repeat(job: Callable[[Caller], Awaitable[None]], pause_s: float, caller: Caller) -> None:
    """Rounds of a job with pauses between them, until the caller stops."""
    chance = random.Random(f"{caller.seed} {job.__name__}")
    while not caller.stopping:
        try:
            await job(caller)
        except Exception as error:
            caller.tally.judge(job.__name__, f"{type(error).__name__}: {error}")
        await asyncio.sleep(pause_s * chance.uniform(0.3, 1.7))


def _repeat_blocking(
    job: Callable[[Caller], None], pause_s: float, caller: Caller, first: Caller
) -> None:
    while not first.stopping:
        try:
            job(caller)
        except Exception as error:
            caller.tally.judge(job.__name__, f"{type(error).__name__}: {error}")
        end = time.monotonic() + pause_s * caller.chance.uniform(0.3, 1.7)
        while time.monotonic() < end and not first.stopping:
            time.sleep(min(0.2, pause_s))
