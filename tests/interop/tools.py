"""curl and nghttp: tools that know HTTP/2 and nothing of gRPC, with bodies that are made here."""

import base64
import gzip
import os
import re
import shutil
import subprocess
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.interop.grpcio_clients import HEALTH, SERVICE, add_response, first_messages
from tests.interop.jobs import Job, Outcome, Place
from tests.interop.wiretap import split_messages

from penstock_protos.health import HealthCheckResponse
from penstock_protos.inference import ModelInferResponse, ModelStreamInferResponse

CALLS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "infer": (SERVICE + "ModelInfer", ModelInferResponse.FromString),
    "unknown": (SERVICE + "Nonsense", ModelInferResponse.FromString),
    "stream": (SERVICE + "ModelStreamInfer", ModelStreamInferResponse.FromString),
    "health": (HEALTH + "Check", HealthCheckResponse.FromString),
    "watch": (HEALTH + "Watch", HealthCheckResponse.FromString),
}
CANCELLED = 1
_PACK: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
_TIMEOUT_S = 60
_ATTEMPTS = 20


def framed(message: bytes, compression: str = "") -> bytes:
    """A message with its prefix, compressed if there is a compression."""
    data = _PACK[compression](message) if compression else message
    return bytes((bool(compression),)) + len(data).to_bytes(4) + data


def bodies(job: Job) -> list[bytes]:
    """The body of every call of a job: one with all the messages, or one for each."""
    parts = [framed(m.SerializeToString(), job.compression) for m in first_messages(job)]
    return [b"".join(parts)] if job.call == "stream" else parts


def headers(job: Job) -> dict[str, str]:
    """What a call's request carries."""
    made = {"content-type": "application/grpc", "te": "trailers", **job.metadata}
    if job.timeout_ms:
        made["grpc-timeout"] = f"{job.timeout_ms}m"
    if job.compression:
        made["grpc-encoding"] = made["grpc-accept-encoding"] = job.compression
    return made


def url(place: Place, job: Job) -> str:
    """Where a job's calls go."""
    return f"{'https' if place.authority else 'http'}://{place.target}{CALLS[job.call][0]}"


def outcome_of(job: Job, fields: Sequence[tuple[str, str]], body: bytes) -> Outcome:
    """What header fields, trailers and a body say."""
    found = dict(fields)
    assert found["content-type"].startswith("application/grpc"), fields
    outcome = Outcome(int(found["grpc-status"]))
    outcome.message = urllib.parse.unquote(found.get("grpc-message", ""))
    outcome.trailers = {
        name: base64.b64encode(_unpadded(value)).decode() if name.endswith("-bin") else value
        for name, value in fields
    }
    _add_messages(outcome, job, body, found.get("grpc-encoding", ""))
    return outcome


def _add_messages(outcome: Outcome, job: Job, body: bytes, encoding: str) -> None:
    for compressed, data in split_messages(body):
        message = _UNPACK[encoding](data) if compressed else data
        add_response(outcome, CALLS[job.call][1](message))


def _unpadded(value: str) -> bytes:
    return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)


class _Tool:
    """A tool on the path."""

    name = ""
    command = ""

    def missing(self) -> str:
        """Why it cannot run on this machine."""
        found = shutil.which(self.command)
        return "" if found else f"{self.command} is not installed: run tests/interop/setup"

    def version(self) -> str:
        """The version that it says it is."""
        said = subprocess.run(
            [self.command, "--version"], capture_output=True, text=True, check=True
        )
        found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout)
        return found[0] if found else ""


class CurlClient(_Tool):
    """curl with nghttp2; a process for each call."""

    name = command = "curl"
    unable: Mapping[str, str] = {
        "ping-pong": "it does not wait for answers before it sends more",
        "retry": "it knows nothing of retries of gRPC",
    }

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Write the bodies to files, run curl, read the files that it wrote."""
        return [
            self._call(place, job, scratch / str(number), body)
            for number, body in enumerate(bodies(job))
        ]

    def _call(self, place: Place, job: Job, stem: Path, body: bytes) -> Outcome:
        stem.with_suffix(".request").write_bytes(body)
        arguments = ["curl", "--silent", "--show-error", *self._transfer(place, job, stem)]
        if job.cancel_after or job.call == "watch":
            return self._cut_off(job, arguments)
        arguments += ["--output", f"{stem}.response"]
        for _ in range(_ATTEMPTS):
            # The exit code says nothing of the answer: a server that answers early resets the
            # stream with NO_ERROR, and curl calls that a failure. Until 8.0 it also forgets an
            # answer that is complete before it has seen that its own sending is.
            subprocess.run(arguments, check=False, timeout=_TIMEOUT_S)
            if stem.with_suffix(".headers").stat().st_size:
                break
        return self._read(job, stem)

    def _transfer(self, place: Place, job: Job, stem: Path) -> list[str]:
        secure = ["--http2", "--cacert", place.authority]
        arguments = secure if place.authority else ["--http2-prior-knowledge"]
        for name, value in headers(job).items():
            arguments += ["--header", f"{name}: {value}"]
        # Or it would announce large bodies and wait for a 100 that gRPC does not have.
        arguments += ["--header", "expect:", "--user-agent", "curl"]
        arguments += ["--data-binary", f"@{stem}.request", "--dump-header", f"{stem}.headers"]
        return [*arguments, url(place, job)]

    def _read(self, job: Job, stem: Path) -> Outcome:
        response = stem.with_suffix(".response")
        lines = stem.with_suffix(".headers").read_text().splitlines()
        assert lines[0].startswith("HTTP/2 200"), lines
        fields = [line.partition(": ")[::2] for line in lines[1:] if line]
        return outcome_of(job, fields, response.read_bytes() if response.exists() else b"")

    def _cut_off(self, job: Job, arguments: list[str]) -> Outcome:
        """Read so many messages, then end the process, and the connection with it."""
        outcome, body, wanted = Outcome(CANCELLED), b"", max(job.cancel_after, 1)
        with subprocess.Popen([*arguments, "--no-buffer"], stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            while len(list(split_messages(body))) < wanted:
                data = os.read(curl.stdout.fileno(), 1 << 16)
                assert data, "the connection ended early"
                body += data
            curl.terminate()
        _add_messages(outcome, job, body, "")
        return outcome


class NghttpClient(_Tool):
    """nghttp, which builds a tree of priorities before it asks for anything."""

    name = command = "nghttp"
    unable: Mapping[str, str] = {
        "many": "it sends the same body on all its streams: h2load does that below",
        "ping-pong": "it does not wait for answers before it sends more",
        "cancel": "it cannot stop in between",
        "health watch": "it cannot stop in between",
        "retry": "it knows nothing of retries of gRPC",
    }

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Call twice: it shows either the header fields or the body."""
        fields = self.fields(place, job, scratch)
        assert (":status", "200") in fields, fields
        return [outcome_of(job, fields, self._call(place, job, scratch))]

    def fields(self, place: Place, job: Job, scratch: Path) -> list[tuple[str, str]]:
        """The header fields and trailers of all answers."""
        log = self._call(place, job, scratch, "--verbose", "--null-out").decode()
        found = (_RECEIVED.search(line) for line in log.splitlines())
        return [(match[1], match[2]) for match in found if match is not None]

    def _call(self, place: Place, job: Job, scratch: Path, *more: str) -> bytes:
        (body,) = bodies(job)
        (scratch / "request").write_bytes(body)
        arguments = ["--data", str(scratch / "request"), *self._flags, *more]
        for name, value in headers(job).items():
            arguments += ["--header", f"{name}: {value}"]
        command = ["nghttp", *arguments, url(place, job)]
        ended = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
        return ended.stdout


class H2load(_Tool):
    """The load generator that comes with nghttp."""

    name = command = "h2load"
    unable: Mapping[str, str] = {}

    def load(self, place: Place, job: Job, scratch: Path, calls: int) -> str:
        """Make so many calls on 10 connections, 100 at a time on each; what it says of them."""
        (body,) = bodies(job)
        (scratch / "request").write_bytes(body)
        command = ["h2load", "-n", str(calls), "-c", "10", "-m", "100"]
        command += ["-d", str(scratch / "request")]
        for name, value in headers(job).items():
            command += ["-H", f"{name}: {value}"]
        ended = subprocess.run(
            [*command, url(place, job)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return ended.stdout


_RECEIVED = re.compile(r"recv \(stream_id=\d+\) (:?[^:]+): (.*)")
