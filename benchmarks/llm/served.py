"""Our server with the model, asked by ModelStreamInfer as a user would: text, token by token."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.llm.engines.turns import Prompts
from benchmarks.llm.workers import ROOT, Turn
from benchmarks.peers.process import Launch, PeerError, Running, cpu_seconds, started
from benchmarks.server import free_port

from penstock import AsyncClient, Client, InferenceError

MODEL = "bench"
_PATIENCE_S = 120.0
_LOOK_S = 0.05
_SAMPLING = '{"temperature": 0, "ignore_eos": true, "max_tokens": %d}'
_OPTIONS = ("dtype", "threads", "max_batched_tokens", "prefix_caching", "speculative_method")


class OwnServer:
    """A server that runs."""

    def __init__(self, running: Running, url: str) -> None:
        self.running = running
        self.url = url

    def turn(self, prompts: Prompts, max_tokens: int) -> Turn:
        """All of them at once, over one connection. The CPU is the server's alone; an answer is as
        long as it was asked to be, and its tokens are not told.
        """
        before, began = cpu_seconds(self.running.pids()), time.perf_counter()
        try:
            asyncio.run(self._ask_all(prompts, max_tokens))
        except InferenceError as error:
            self.running.check()
            raise PeerError(f"it answers {error}") from error
        wall_s = time.perf_counter() - began
        cpu_s = cpu_seconds(self.running.pids()) - before
        return Turn(cpu_s, wall_s, [[0] * max_tokens for _ in prompts])

    async def _ask_all(self, prompts: Prompts, max_tokens: int) -> None:
        async with AsyncClient(self.url, transport="http2") as client:
            await asyncio.gather(*(self._drain(client, one, max_tokens) for one in prompts))

    async def _drain(self, client: AsyncClient, prompt: list[int], max_tokens: int) -> None:
        async for _ in deltas(client, prompt, max_tokens):
            pass


async def deltas(client: AsyncClient, prompt: list[int], max_tokens: int) -> AsyncIterator[str]:
    """The text of an answer as it comes. ValueError unless it is as long as it was to be."""
    inputs = {
        "input_ids": np.array(prompt, np.int64),
        "sampling_parameters": np.array([_SAMPLING % max_tokens], object),
    }
    reason = ""
    wanted = ("text_output", "finish_reason")
    async for result in client.stream(MODEL, inputs, outputs=wanted, timeout=_PATIENCE_S):
        reason = str(result["finish_reason"][0], "utf-8")
        yield str(result["text_output"][0], "utf-8")
    if reason != "length":
        raise ValueError(f"an answer ended by {reason!r}, expected 'length'")


@contextlib.contextmanager
def served(job: Mapping[str, Any], folder: Path, *cores: int) -> Iterator[OwnServer]:
    """`penstock serve` with the model of this job, on these cores (none named: all)."""
    repository = _repository(job, folder / "models")
    port = free_port()
    words = [sys.executable, "-m", "penstock", "serve", str(repository), f"--grpc-port={port}"]
    words += ["--grpc-address=127.0.0.1", "--allow-metrics=false", "--allow-http=false"]
    launch = Launch([*words, "--log-info=false"], _environment(job))
    with started(launch, folder, *(cores or sorted(os.sched_getaffinity(0)))) as running:
        url = f"127.0.0.1:{port}"
        _wait(running, url)
        yield OwnServer(running, url)


def _environment(job: Mapping[str, Any]) -> dict[str, str]:
    parts = [str(ROOT / part) for part in ("server", "runtime", "kernels", "protos")]
    return {"OMP_NUM_THREADS": str(job["threads"]), "PYTHONPATH": os.pathsep.join(parts)}


def _repository(job: Mapping[str, Any], repository: Path) -> Path:
    """One model with its files and its engine's options."""
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    for file in Path(job["model"]).iterdir():
        shutil.copyfile(file, version / file.name)
    lines = ['backend: "llm"']
    for name, value in {"prefix_caching": False, **job}.items():
        if name in _OPTIONS:
            text = str(value).lower()
            lines.append(f'parameters {{ key: "{name}" value {{ string_value: "{text}" }} }}')
    (repository / MODEL / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return repository


def _wait(running: Running, url: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    with Client(url, timeout=1.0) as client:
        while True:
            running.check()
            with contextlib.suppress(InferenceError):
                if client.model_ready(MODEL):
                    return
            if time.monotonic() > until:
                raise PeerError(f"the model is not ready after {_PATIENCE_S:.0f} s")
            time.sleep(_LOOK_S)
