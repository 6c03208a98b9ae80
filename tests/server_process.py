"""A server as a process of its own, with models written on the spot."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 0
input {{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }}
{more}
"""
_START = """
import sys
from penstock.cli.main import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
_ADDRESS = re.compile(r"gRPC on (\S+)")


def write_model(root: Path, name: str, code: str, more: str = "") -> Path:
    """A Python model IN FP32[1] -> OUT FP32[1] in the repository `root`."""
    version = root / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(more=more))
    return version.parent


class ServerProcess:
    """`penstock serve`, and what it says on stderr; `python` may be that of another environment,
    which then sees the packages of `path` beside its own.
    """

    def __init__(
        self, root: Path, *flags: str, python: str = sys.executable, path: Sequence[str] = sys.path
    ) -> None:
        argv = ("--model-repository", str(root), "--grpc-address=127.0.0.1", "--grpc-port=0")
        self.process = subprocess.Popen(
            [
                python,
                "-c",
                _START,
                *argv,
                "--metrics-address=127.0.0.1",
                "--metrics-port=0",
                # Several of them run at a time; whoever tests HTTP gives it a port of its own.
                "--allow-http=false",
                *flags,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.said.append(line)
                self._lines.put(line)
        self._lines.put("")

    def wait_for(self, part: str, timeout_s: float = 30.0) -> str:
        """The first line from here on that holds these words."""
        while line := self._lines.get(timeout=timeout_s):
            if part in line:
                return line
        raise AssertionError(f"the server ended without saying {part!r}: {''.join(self.said)}")

    def address(self) -> str:
        """Where it serves, once it does."""
        found = _ADDRESS.search(self.wait_for("gRPC on"))
        assert found is not None
        return found[1]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout_s: float = 30.0) -> int:
        """Wait for its end."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code


@contextmanager
def server_process(
    root: Path, *flags: str, python: str = sys.executable, path: Sequence[str] = sys.path
) -> Iterator[ServerProcess]:
    """A server that does not outlive the block."""
    server = ServerProcess(root, *flags, python=python, path=path)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.exit_code()
