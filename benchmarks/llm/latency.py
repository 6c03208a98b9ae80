"""Time to the first token and between tokens, under requests that come as they come: a Poisson
process at a fixed rate, whatever the server makes of it. The time to a first token counts from when
its request was due, not from when it could be sent.
"""

import asyncio
import contextlib
import os
import statistics
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.llm import peers
from benchmarks.llm.lineup import Setting
from benchmarks.llm.served import OwnServer, served
from benchmarks.llm.streams import Ask, over_grpc, over_http
from benchmarks.llm.workload import Workload
from benchmarks.peers.process import (
    PeerError,
    Running,
    cpu_seconds,
    pinned,
    started,
    waited_seconds,
)
from benchmarks.report import Finding
from benchmarks.server import free_port

from penstock import AsyncClient
from penstock.bench.schedule import PoissonArrivals

OURS, VLLM = "penstock, gRPC", "vLLM CPU, HTTP"
Opened = Callable[[], AbstractAsyncContextManager[Ask]]
_PATIENCE_S, _LOOK_S = 180.0, 0.2
_NS = 1e9


@dataclass(slots=True)
class Times:
    """What the readers of one server saw, in seconds; `cpu_s` is the server's, and so is
    `waited_s`, for which its threads were ready to run while others had the core."""

    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    pieces: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    waited_s: float = 0.0
    errors: list[str] = field(default_factory=list)

    def add(self, due: float, stamps: Sequence[float], tokens: int) -> None:
        """One answer: when its request was due, and when its pieces came."""
        self.first_s.append(stamps[0] - due)
        self.gaps_s += [after - before for before, after in pairwise(stamps)]
        self.pieces += len(stamps)
        self.tokens += tokens


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second, for so long (s), drawn from this workload."""

    rate: float
    seconds: float
    workload: Workload

    def dues(self, seed: int) -> list[float]:
        """When its requests are due, in seconds from the beginning."""
        offsets = [at / _NS for at in PoissonArrivals(self.rate, seed).chunk()]
        return [at for at in offsets if at < self.seconds]


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers, and how it is asked."""

    running: Running
    opened: Opened


def measure(setting: Setting, load: Load, rounds: int, folder: Path) -> dict[str, Times]:
    """The times of ours and of vLLM's server, in turns, on one core; the load is on another."""
    found: dict[str, Times] = {}
    with contextlib.ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))
        ready = _ready(stack, setting, folder, cores[: setting.threads])
        with pinned(*(cores[setting.threads :] or cores)):
            for number in range(rounds):
                for name in list(ready) if number % 2 == 0 else list(ready)[::-1]:
                    print(f"{load.rate:g} requests a second to {name} ...", flush=True)
                    times = found.setdefault(name, Times())
                    asyncio.run(_window(ready[name], load, number, times))
    for name, times in found.items():
        for text in times.errors[:3]:
            print(f"  {name}: {text}", flush=True)
    return found


def _ready(
    stack: contextlib.ExitStack, setting: Setting, folder: Path, cores: Sequence[int]
) -> dict[str, Server]:
    found = {}
    for name, start in ((OURS, _ours), (VLLM, _vllm)):
        print(f"starting {name} ...", end=" ", flush=True)
        try:
            found[name] = stack.enter_context(start(setting, folder, cores))
        except (PeerError, OSError) as error:
            print(f"left out: {error}", flush=True)
        else:
            print("ready", flush=True)
    return found


@contextlib.contextmanager
def _ours(setting: Setting, folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    with served(setting.job, folder / "ours", *cores) as server:
        yield Server(server.running, lambda: _grpc(server))


@asynccontextmanager
async def _grpc(server: OwnServer) -> AsyncIterator[Ask]:
    async with AsyncClient(server.url, transport="http2") as client:
        yield over_grpc(client)


@contextlib.contextmanager
def _vllm(setting: Setting, folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    port, own = free_port(), folder / "vllm"
    own.mkdir(parents=True)
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[setting.dtype]
    launch = peers.vllm_serve(setting.model, port, dtype, setting.max_batched_tokens, own)
    with started(launch, own, *cores) as running:
        _wait_healthy(running, port)
        yield Server(running, lambda: _http(port))


@asynccontextmanager
async def _http(port: int) -> AsyncIterator[Ask]:
    yield over_http(port)


def _wait_healthy(running: Running, port: int) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        running.check()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        time.sleep(_LOOK_S)
    raise PeerError(f"it is not healthy after {_PATIENCE_S:.0f} s")


async def _window(server: Server, load: Load, seed: int, times: Times) -> None:
    """One stretch of requests; it ends when all are answered."""
    prompts, count = load.workload.prompts(seed), load.workload.max_tokens
    loop = asyncio.get_running_loop()
    async with server.opened() as ask:
        # Whatever comes up with the first request is not measured.
        await _read(ask, prompts[0], count)
        pids = server.running.pids()
        cpu_s, waited_s, origin = cpu_seconds(pids), waited_seconds(pids), loop.time()

        async def one(number: int, due: float) -> None:
            await asyncio.sleep(max(origin + due - loop.time(), 0.0))
            try:
                stamps = await _read(ask, prompts[number % len(prompts)], count)
            except Exception as error:
                times.errors.append(f"{type(error).__name__}: {error}")
            else:
                times.add(origin + due, stamps, count)

        await asyncio.gather(*(one(number, due) for number, due in enumerate(load.dues(seed))))
        times.cpu_s += cpu_seconds(pids) - cpu_s
        times.waited_s += waited_seconds(pids) - waited_s


async def _read(ask: Ask, prompt: list[int], count: int) -> list[float]:
    """When each piece of an answer came."""
    loop = asyncio.get_running_loop()
    return [loop.time() async for _ in ask(prompt, count)]


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of some values, at least two."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def finding_of(found: dict[str, Times], setting: Setting, load: Load) -> Finding:
    """The table, and what is worth keeping of it."""
    head = ("server", "requests", "TTFT p50 ms", "p95", "gap p50 ms", "p95")
    rows, said = [], []
    for name, times in found.items():
        if len(times.first_s) < 2:
            continue
        ttft = [percentile(times.first_s, percent) * 1e3 for percent in (50, 95)]
        gap = [percentile(times.gaps_s, percent) * 1e3 for percent in (50, 95)]
        cells = [f"{value:.1f}" for value in (*ttft, *gap)]
        pace = f"{times.tokens / times.pieces:.2f}"
        each = f"{times.tokens / times.cpu_s:.0f}" if times.cpu_s else "-"
        more = (pace, each, f"{times.waited_s / times.cpu_s:.2f}" if times.cpu_s else "-")
        rows.append((name, str(len(times.first_s)), *cells, *more, str(len(times.errors))))
        said.append(
            f"{name}: TTFT p50/p95 {cells[0]}/{cells[1]} ms, gap {cells[2]}/{cells[3]} ms,"
            f" {each} tok/cpu-s, waited {more[2]} s for each second of CPU"
        )
    title = f"llm under {load.rate:g} req/s {setting.dtype}"
    return Finding(
        title, (*head, "tokens a piece", "tok/cpu-s", "waited", "failed"), rows, "; ".join(said)
    )
