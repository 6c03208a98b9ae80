"""A server in a process of its own, as a user starts it, and what it takes."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock import Client

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class Measured:
    """A server that runs; `ready_s` is the time from its start to the first ServerReady of true."""

    url: str
    pid: int
    ready_s: float

    def resident_mb(self) -> float:
        """The resident memory of the process in MB (10^6 bytes)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6


@contextlib.contextmanager
def running(repository: Path, *flags: str) -> Iterator[Measured]:
    """`penstock serve` on a free loopback port, quiet and without metrics unless the flags say
    otherwise, until the end of the block.
    """
    port = free_port()
    command = [sys.executable, "-m", "penstock", "serve", str(repository)]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={port}", "--log-info=false"]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--allow-metrics=false", "--allow-http=false", *flags])
    try:
        url = f"127.0.0.1:{port}"
        _wait(process, port, url, began + START_TIMEOUT_S)
        yield Measured(url, process.pid, time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _wait(process: subprocess.Popen[bytes], port: int, url: str, until: float) -> None:
    """Return once the server is ready. A bare connection first: gRPC would back off in between."""
    while not _listens(port):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError(f"nothing listens on {url} after {START_TIMEOUT_S:g} s")
        time.sleep(_LOOK_S)
    with Client(url) as client:
        while not client.server_ready():
            if time.monotonic() > until:
                raise TimeoutError(f"the server is not ready after {START_TIMEOUT_S:g} s")
            time.sleep(_LOOK_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
