"""The servers of a comparison, all started before the first is measured and gone after the last."""

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.peers.certificate import make_certificate
from benchmarks.peers.probe import wait_until_right
from benchmarks.peers.process import PeerError, Running, started
from benchmarks.peers.servers import Place, launch
from benchmarks.side_by_side.cases import Case

from penstock_runtime.datatype import AnyArray

Entry = tuple[str, bool]
"""The name of a server, and whether it speaks TLS."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers; `root` is what its TLS is trusted by."""

    url: str
    running: Running
    root: Path | None


def wanted(cases: Sequence[Case]) -> dict[Entry, list[str]]:
    """Every server that the cases need, and the models that it must have."""
    found: dict[Entry, list[str]] = {}
    for case in cases:
        for peer in case.peers:
            models = found.setdefault((peer, case.load.secure), [])
            if case.load.model not in models:
                models.append(case.load.model)
    return found


@contextlib.contextmanager
def servers(
    entries: Mapping[Entry, Sequence[str]], folder: Path, core: int
) -> Iterator[dict[Entry, Server]]:
    """All of them on one core. One that does not start is told about and left out."""
    found: dict[Entry, Server] = {}
    answers: dict[str, AnyArray] = {}
    with contextlib.ExitStack() as stack:
        for entry, models in entries.items():
            name = f"{entry[0]}{' with TLS' if entry[1] else ''}"
            print(f"starting {name} ...", end=" ", flush=True)
            try:
                found[entry] = stack.enter_context(_server(entry, models, folder, core, answers))
            except (PeerError, OSError) as error:
                print(f"left out: {error}", flush=True)
            else:
                print(f"{found[entry].running.resident_mb():.0f} MB", flush=True)
        yield found


@contextlib.contextmanager
def _server(
    entry: Entry, models: Sequence[str], folder: Path, core: int, answers: dict[str, AnyArray]
) -> Iterator[Server]:
    name, secure = entry
    own = folder / re.sub(r"\W+", "_", f"{name} {'tls' if secure else ''}").strip("_")
    own.mkdir()
    certificate = make_certificate(own) if secure else None
    port = free_port()
    with started(launch(name, Place(port, own, models, certificate)), own, core) as running:
        url, root = f"127.0.0.1:{port}", certificate.root if certificate else None
        _compare(wait_until_right(running, url, root, models), answers)
        yield Server(url, running, root)


def _compare(found: Mapping[str, AnyArray], answers: dict[str, AnyArray]) -> None:
    """Every server has to compute the same as the first one did."""
    for model, answer in found.items():
        if not np.allclose(answer, answers.setdefault(model, answer), atol=1e-4):
            raise PeerError(f"{model} answers differently from the other servers")


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
