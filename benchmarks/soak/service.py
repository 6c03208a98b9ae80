"""The server of a soak: its models and its flags, and clients in processes of their own."""

import contextlib
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.build_repository import MODELS
from benchmarks.reload import write_model
from benchmarks.soak.load import Assignment, Progress, run
from benchmarks.soak.tally import Tally, merged
from benchmarks.soak.wire import MAX_STREAMS

OWN_MODELS = Path(__file__).resolve().parent / "models"
END_S = 180.0


def build(repository: Path) -> None:
    """Write the models; none of them needs torch."""
    for source in (MODELS / "echo", MODELS / "stream100", *OWN_MODELS.iterdir()):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, repository / source.name, ignore=skipped)
    write_model(repository, 0)


def flags(transport: str, metrics_port: int, log: Path) -> tuple[str, ...]:
    """Limits so low that a soak meets them.

    The limit on calls of a connection is for our transport alone: grpcio's own server refuses calls
    of grpcio's own clients for a while after earlier ones have ended.
    """
    limit = (f"--grpc-max-concurrent-streams={MAX_STREAMS}",) if transport == "http2" else ()
    return (
        *limit,
        f"--transport={transport}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--allow-metrics=true",
        "--allow-http=false",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        f"--log-file={log}",
        "--grpc-handshake-timeout=4000",
        "--grpc-keepalive-time=4000",
        "--grpc-keepalive-timeout=2000",
        "--stream-stall-secs=10",
    )


class Crowd:
    """The processes of clients."""

    def __init__(self, tasks: Sequence[Assignment]) -> None:
        context = multiprocessing.get_context("spawn")
        self._latest = [Progress(0, 0, 0.0) for _ in tasks]
        self._pipes: list[Connection] = []
        self._processes = []
        for task in tasks:
            ours, theirs = context.Pipe()
            process = context.Process(target=run, args=(task, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def progress(self) -> Progress:
        """The sum of what they said last."""
        for number, pipe in enumerate(self._pipes):
            with contextlib.suppress(EOFError, OSError):
                while pipe.poll():
                    self._latest[number] = pipe.recv()
        return Progress(
            sum(one.calls for one in self._latest),
            sum(one.wrong for one in self._latest),
            sum(one.cpu_s for one in self._latest),
        )

    @property
    def alive(self) -> bool:
        """Whether all of them run."""
        return all(process.is_alive() for process in self._processes)

    def stop(self) -> Tally:
        """Let them end, and give what they counted."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send("stop")
        total = merged(map(self._last_word, self._pipes))
        for process in self._processes:
            process.join(END_S)
        return total

    def _last_word(self, pipe: Connection) -> Tally:
        try:
            while pipe.poll(END_S):
                said = pipe.recv()
                if isinstance(said, Tally):
                    return said
        except (EOFError, OSError):
            pass
        lost = Tally()
        lost.judge("clients", "a process ended without a word")
        return lost

    def kill(self) -> None:
        """End them at once."""
        for process in self._processes:
            if process.is_alive():
                process.kill()


@contextlib.contextmanager
def crowd(tasks: Sequence[Assignment]) -> Iterator[Crowd]:
    """The processes, gone for certain at the end of the block."""
    found = Crowd(tasks)
    try:
        yield found
    finally:
        found.kill()
