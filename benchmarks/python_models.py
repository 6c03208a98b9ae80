"""What models written for Triton's Python backend cost here and in Triton: an identity of 10 MB,
and a chain of five models that one model calls.

    python -m benchmarks.python_models [--rounds 3] [--seconds 2] [--record]

Both servers are given the same folders, unmodified; each runs on one core and the load on another,
they take turns in every round. Requests per second of CPU, all processes of a server together. In
messages an identity of 10 MB is bound by the kernel, which copies it twice: a socket that gives
back what it reads, and does nothing else, is measured beside it. The exit code is 1 unless the
floors were measured and hold.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from benchmarks.peers.bare_socket import echoes_per_cpu_s
from benchmarks.peers.probe import bodies, matrix
from benchmarks.peers.process import Launch, PeerError, Running, pinned, started
from benchmarks.peers.triton import MODELS, launch_triton
from benchmarks.report import Finding, arguments, publish
from benchmarks.side_by_side.lineup import free_port
from benchmarks.side_by_side.rounds import OWN, ROOT, SERVICE

from penstock import Client, InferenceError
from penstock.client.retry import NO_RETRIES
from penstock_protos import inference

OURS, TRITON = "penstock", "Triton"
LINKS = tuple(f"link{number}" for number in range(1, 6))
NAMES = ("echo", "chain", *LINKS)
# Memory that is used for the first time costs more than what a server does with it.
_WARMUP_S = 1.5
_READY = 1200
BYTES = 4 * 1600 * 1600
REGION = "benchmark"
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the shape of its FP32 requests, calls in flight, and what ours must reach: so many
    times Triton's requests per second of CPU (0: it is only told). `placed`: its tensors lie in
    memory that the client shares.
    """

    name: str
    model: str
    shape: tuple[int, int]
    calls: int
    floor: float
    placed: bool = False


CASES = (
    Case("identity, 10 MB", "echo", (1600, 1600), 2, 3.0),
    Case("identity, 10 MB, shared memory", "echo", (1600, 1600), 2, 0.0, placed=True),
    Case("chain of five, 10 MB", "chain", (1600, 1600), 2, 5.0),
    Case("chain of five, 64 kB", "chain", (128, 128), 4, 0.0),
    Case("chain of five, 64 B", "chain", (1, 16), 4, 0.0),
)


def main(given: Sequence[str] | None = None) -> int:
    """Measure as the command line says."""
    parser = arguments("Measure Triton's Python models here and in Triton.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    chosen = parser.parse_args(given)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core for the servers and one for the load are needed, there is one")
    found: dict[tuple[str, str], list[float]] = {}
    bound: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with _servers(folder, cores[0]) as servers:
            for number in range(chosen.rounds):
                print(f"round {number + 1} of {chosen.rounds}", flush=True)
                bound.append(echoes_per_cpu_s(BYTES, chosen.seconds, cores[0], cores[-1]))
                for case in CASES:
                    for peer in servers if number % 2 == 0 else list(servers)[::-1]:
                        per_cpu_s = _turn(case, servers[peer], chosen.seconds, folder, cores[-1])
                        found.setdefault((case.name, peer), []).append(per_cpu_s)
    return _publish(found, statistics.median(bound), record=chosen.record)


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers."""

    url: str
    running: Running


@contextlib.contextmanager
def _servers(folder: Path, core: int) -> Iterator[Mapping[str, Server]]:
    """Both of them with the same models; Triton is left out where it is not installed."""
    repository = _repository(folder / "models")
    region = SharedMemory(create=True, size=2 * BYTES)
    found: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:
        for peer, launch in ((OURS, _penstock), (TRITON, _triton)):
            port = free_port()
            try:
                own = folder / peer
                made = launch(own, port, repository)
                running = stack.enter_context(started(made, folder / f"{peer}.run", core))
                found[peer] = Server(f"127.0.0.1:{port}", running)
                _check(found[peer])
                _register(found[peer], region)
            except (PeerError, OSError) as error:
                found.pop(peer, None)
                print(f"{peer} is left out: {error}", flush=True)
        stack.callback(region.unlink)
        stack.callback(region.close)
        yield found


def _register(server: Server, region: SharedMemory) -> None:
    """Let the server know of the memory that requests of the placed case are in."""
    with Client(server.url, retries=NO_RETRIES, timeout=10.0) as client:
        client.register_shared_memory(REGION, region.name, 2 * BYTES)


def _placed_body(case: Case) -> bytes:
    """A request whose input lies in the first half of the region; its output goes to the second."""
    message = inference.ModelInferRequest(model_name=case.model)
    tensor = message.inputs.add(name="INPUT0", datatype="FP32", shape=case.shape)
    output = message.outputs.add(name="OUTPUT0")
    for place, offset in ((tensor, 0), (output, BYTES)):
        place.parameters["shared_memory_region"].string_param = REGION
        place.parameters["shared_memory_byte_size"].int64_param = BYTES
        place.parameters["shared_memory_offset"].int64_param = offset
    data: bytes = message.SerializeToString()
    return data


def _repository(folder: Path) -> Path:
    for name in NAMES:
        source = MODELS / ("link" if name in LINKS else name)
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        config = folder / name / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "echo"\n', ""))
    return folder


def _penstock(_own: Path, port: int, repository: Path) -> Launch:
    words = [sys.executable, "-m", "penstock", "serve", str(repository)]
    words += ["--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    return Launch([*words, "--allow-metrics=false", "--log-info=false", "--allow-client-shm"])


def _triton(own: Path, port: int, repository: Path) -> Launch:
    own.mkdir()
    return launch_triton(own, port, NAMES, cached=False, source=repository)


def _check(server: Server) -> None:
    """Both models have to give back what they are sent, in time."""
    sent = matrix((3, 5))
    for attempt in range(_READY):
        server.running.check()
        with Client(server.url, retries=NO_RETRIES, timeout=10.0) as client:
            try:
                answers = [client.infer(name, {"INPUT0": sent})["OUTPUT0"] for name in NAMES]
            except InferenceError as error:
                if attempt == _READY - 1:
                    raise PeerError(f"it does not answer: {error}") from None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.running.process.wait(0.1)
                continue
        if not all(np.array_equal(answer, sent) for answer in answers):
            raise PeerError("it does not give back what it is sent")
        return


def _turn(case: Case, server: Server, seconds: float, folder: Path, core: int) -> float:
    """Requests per second of the server's CPU in one window."""
    path = folder / f"{case.model}-{case.shape[1]}-{case.placed}"
    if not path.exists():
        body = _placed_body(case) if case.placed else bodies(case.model, case.shape)[0]
        path.write_bytes(body)
    pids = ",".join(map(str, server.running.pids()))
    words = [*OWN, "--target", server.url, "--path", f"{SERVICE}ModelInfer", "--body", str(path)]
    words += ["-c", str(case.calls), "-d", str(seconds), "-w", str(_WARMUP_S), "--pids", pids]
    with pinned(core):
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            check=True,
            timeout=seconds + _WARMUP_S + _PATIENCE_S,
        )
    figures = json.loads(done.stdout)
    if figures["errors"]:
        raise PeerError(f"{case.name}: {figures['errors']} calls failed: {figures['error_kinds']}")
    return float(figures["ok"] / figures["server_cpu_s"])


def _publish(
    found: Mapping[tuple[str, str], Sequence[float]], bound: float, *, record: bool
) -> int:
    rows, words, held = [], [], True
    for case in CASES:
        ours, theirs = (found.get((case.name, peer), ()) for peer in (OURS, TRITON))
        # Of one round each, as whatever else the machine did met both.
        ratios = [our / their for our, their in zip(ours, theirs, strict=False)]
        ratio = statistics.median(ratios) if ratios else 0.0
        held = held and ratio >= case.floor
        reached = "holds" if ratio >= case.floor else "BROKEN"
        verdict = (reached if case.floor else "") if ratios else "not measured"
        cells = [f"{statistics.median(each):.0f}" if each else "-" for each in (ours, theirs)]
        rows.append(
            (case.name, *cells, f"{ratio:.1f}", f"{case.floor:g}" if case.floor else "-", verdict)
        )
        words.append(f"{case.name}: {cells[0]} to {cells[1]} req/cpu-s, {ratio:.1f}x")
    rows.append(("a bare socket, 10 MB", f"{bound:.0f}", "-", "", "-", ""))
    words.append(f"a bare socket {bound:.0f}")
    head = ("requests per CPU-second", OURS, TRITON, "ratio", "floor", "")
    publish(Finding("Triton's Python models", head, rows, "; ".join(words)), record=record)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
