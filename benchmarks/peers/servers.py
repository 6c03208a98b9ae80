"""How each server under comparison is started: penstock on both transports, Triton with and without
its response cache, and C++ gRPC. A server that cannot be had is a PeerError with the reason.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build_repository import build
from benchmarks.peers.certificate import Certificate
from benchmarks.peers.process import Launch, PeerError
from benchmarks.peers.triton import launch_triton
from benchmarks.side_by_side.cases import CACHE, CPP, GRPCIO, HTTP2, IN_PLACE, TRITON

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "build" / "peers"
_BUILD_S = 600
PROMISE = "instance_group [ { kind: KIND_CPU count: 1 in_place: true } ]\n"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and with what a server runs: its port, a folder of its own, the models that it needs,
    and the certificate if it speaks TLS.
    """

    port: int
    folder: Path
    models: Sequence[str]
    certificate: Certificate | None = None


def launch(peer: str, place: Place) -> Launch:
    """What starts this server there."""
    return _LAUNCHES[peer](place)


def _penstock(transport: str, *, in_place: bool = False) -> Callable[[Place], Launch]:
    """`in_place`: with models that promise never to wait."""

    def start(place: Place) -> Launch:
        repository = build(place.folder / "repository", place.models)
        for model in place.models if in_place else ():
            (repository / model / "config.pbtxt").write_text(PROMISE)
        words = [sys.executable, "-m", "penstock", "serve", str(repository)]
        words += [f"--transport={transport}", "--grpc-address=127.0.0.1"]
        words += [f"--grpc-port={place.port}", "--allow-metrics=false", "--allow-http=false"]
        words += ["--log-info=false"]
        if place.certificate:
            words += ["--grpc-use-ssl=true", *_certificate_flags(place.certificate)]
        return Launch(words)

    return start


def _triton(cached: bool) -> Callable[[Place], Launch]:
    def start(place: Place) -> Launch:
        made = launch_triton(place.folder, place.port, place.models, cached)
        if place.certificate is None:
            return made
        flags = ["--grpc-use-ssl=true", *_certificate_flags(place.certificate)]
        return Launch([*made.words, *flags], made.environment)

    return start


def _certificate_flags(certificate: Certificate) -> list[str]:
    return [f"--grpc-server-cert={certificate.chain}", f"--grpc-server-key={certificate.key}"]


def _cpp(place: Place) -> Launch:
    words = [str(_built_cpp()), f"127.0.0.1:{place.port}"]
    if place.certificate:
        words += [str(place.certificate.chain), str(place.certificate.key)]
    return Launch(words)


def _built_cpp() -> Path:
    """The program, built if its source is newer. PeerError with what the build says last."""
    program = BUILT / "cpp_echo"
    if program.exists() and program.stat().st_mtime > (HERE / "cpp_echo.cc").stat().st_mtime:
        return program
    words = [str(HERE / "build"), str(BUILT)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_BUILD_S)
    if done.returncode:
        raise PeerError(f"it cannot be built: {(done.stderr.strip() or 'no reason')[-300:]}")
    # The linker may have been faster than the clock of the file system.
    os.utime(program)
    return program


_LAUNCHES: dict[str, Callable[[Place], Launch]] = {
    HTTP2: _penstock("http2"),
    IN_PLACE: _penstock("http2", in_place=True),
    GRPCIO: _penstock("grpcio"),
    TRITON: _triton(cached=False),
    CACHE: _triton(cached=True),
    CPP: _cpp,
}
