"""A closed loop of requests: so many in flight, each followed by the next once it is answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from penstock.cli.measurement import Sample
from penstock.cli.server_process import ServerProcess
from penstock.client.calls import INFERENCE, TRUE_STATUS
from penstock.client.channel import TLS, addresses_of, channel_options, grpc_target

_NS = 1_000_000_000
_TICK_S = 0.1
_BACKOFF_S = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and where: `request` is an encoded ModelInferRequest."""

    url: str
    request: bytes
    stream: bool
    timeout_s: float
    metadata: tuple[tuple[str, str], ...] = ()
    tls: TLS | None = None


@dataclass(slots=True)
class _Counts:
    latencies_ns: list[int] = field(default_factory=list)
    messages: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def run_load(
    load: Load,
    concurrency: int,
    warmup_s: float,
    duration_s: float,
    server: ServerProcess | None,
    told: Callable[[float], None],
) -> Sample:
    """Measure for `duration_s` after the warm-up; `told` hears how many seconds have passed."""
    return asyncio.run(_measure(load, concurrency, warmup_s, duration_s, server, told))


async def _measure(
    load: Load,
    concurrency: int,
    warmup_s: float,
    duration_s: float,
    server: ServerProcess | None,
    told: Callable[[float], None],
) -> Sample:
    async with _open(load) as channel:
        await asyncio.wait_for(channel.channel_ready(), load.timeout_s)
        warm, counted = _Counts(), _Counts()
        await _phase(load, channel, concurrency, warmup_s, warm, told)
        server_before = _cpu(server)
        client_before, began = time.process_time(), time.monotonic_ns()
        await _phase(load, channel, concurrency, duration_s, counted, lambda s: told(warmup_s + s))
        elapsed, client = time.monotonic_ns() - began, time.process_time() - client_before
        server_cpu = _difference(_cpu(server), server_before)
    return Sample(
        concurrency,
        elapsed,
        counted.latencies_ns,
        counted.messages,
        counted.errors,
        client,
        server_cpu,
    )


def _cpu(server: ServerProcess | None) -> float | None:
    return None if server is None else server.cpu_seconds()


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _open(load: Load) -> Any:
    addresses = addresses_of(load.url)
    target, options = grpc_target(addresses), channel_options(addresses, load.tls)
    if load.tls is None:
        return grpc.aio.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(*load.tls.read())
    return grpc.aio.secure_channel(target, credentials, options)


async def _phase(
    load: Load,
    channel: Any,
    concurrency: int,
    seconds: float,
    counts: _Counts,
    told: Callable[[float], None],
) -> None:
    began = time.monotonic_ns()
    end = began + int(seconds * _NS)
    worker = _stream_worker if load.stream else _unary_worker
    workers = [asyncio.create_task(worker(load, channel, end, counts)) for _ in range(concurrency)]
    pending = set(workers)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=_TICK_S)
        told(min((time.monotonic_ns() - began) / _NS, seconds))
    for each in workers:
        each.result()


async def _unary_worker(load: Load, channel: Any, end: int, counts: _Counts) -> None:
    method = channel.unary_unary(INFERENCE + "ModelInfer")
    clock, append = time.monotonic_ns, counts.latencies_ns.append
    while (began := clock()) < end:
        try:
            await method(load.request, timeout=load.timeout_s, metadata=load.metadata)
        except grpc.RpcError as error:
            await _note(error, counts)
            continue
        append(clock() - began)
        counts.messages += 1


async def _stream_worker(load: Load, channel: Any, end: int, counts: _Counts) -> None:
    method = channel.unary_stream(INFERENCE + "ModelStreamInfer")
    metadata = load.metadata + TRUE_STATUS
    while (began := time.monotonic_ns()) < end:
        call = method(load.request, timeout=load.timeout_s, metadata=metadata)
        try:
            async for _ in call:
                counts.messages += 1
        except grpc.RpcError as error:
            await _note(error, counts)
            continue
        finally:
            call.cancel()
        counts.latencies_ns.append(time.monotonic_ns() - began)


async def _note(error: Any, counts: _Counts) -> None:
    counts.errors[f"{error.code().name}: {error.details()}"] += 1
    # A server that refuses at once would otherwise be asked as fast as this process can.
    await asyncio.sleep(_BACKOFF_S)
