"""Engines under comparison, each in a process of its own that loads once and then takes turns; one
that cannot take part is a PeerError with the reason.
"""

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.llm.engines.turns import Prompts
from benchmarks.peers.process import Launch, PeerError

ROOT = Path(__file__).resolve().parent.parent.parent
_LOAD_S, _TURN_S, _STOP_S = 180.0, 300.0, 10.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one engine did in one round."""

    cpu_s: float
    wall_s: float
    answers: Prompts

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(map(len, self.answers))

    @property
    def per_cpu_s(self) -> float:
        """Tokens per second of CPU."""
        return self.tokens / self.cpu_s

    @property
    def per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / self.wall_s


class Contestant(Protocol):
    """Answers prompts."""

    def turn(self, prompts: Prompts, max_tokens: int) -> Turn:
        """All of them at once."""


class Worker:
    """A process that is driven as `engines.turns` says."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def wait_ready(self) -> "Worker":
        """Itself, once it is ready. PeerError if that takes too long."""
        self._read(_LOAD_S)
        return self

    def turn(self, prompts: Prompts, max_tokens: int) -> Turn:
        """All of them at once."""
        assert self._process.stdin is not None
        line = json.dumps({"prompts": prompts, "max_tokens": max_tokens})
        try:
            print(line, file=self._process.stdin, flush=True)
        except OSError as error:
            raise PeerError(f"it ended: {self._last_words()}") from error
        return Turn(**self._read(_TURN_S))

    def _read(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], patience_s)[0]:
            raise PeerError(f"it says nothing for {patience_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"it ended: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[:400] or "it left no log"


@contextlib.contextmanager
def worker(launch: Launch, job: dict[str, Any], folder: Path) -> Iterator[Worker]:
    """The process, loading, until the end of the block; its files are in `folder`."""
    folder.mkdir(parents=True)
    task, log = folder / "job.json", folder / "log"
    task.write_text(json.dumps(job))
    threads = str(job["threads"])
    paths = [str(ROOT), *(str(ROOT / part) for part in ("server", "runtime", "kernels", "protos"))]
    ours = {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*launch.words, str(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ours, **launch.environment},
        )
    try:
        yield Worker(process, log)
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[str]") -> None:
    """It ends with its input; if not, it is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
