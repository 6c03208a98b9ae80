"""Clients that are programs in other languages: a Job on standard input, Outcomes on standard
output. tests/interop/setup builds them under build/interop.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.jobs import Job, Outcome, Place, read_outcomes

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent / "clients"
BUILT = ROOT / "build" / "interop"
NOT_BUILT = "not built: run tests/interop/setup"
PYTHON_ENVIRONMENT = {"PYTHONPATH": f"{BUILT / 'python'}:{ROOT / 'protos'}"}
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is run once for each job; with `--version` it says what it is made with."""

    name: str
    command: tuple[str, ...]
    built: Path
    unable: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> str:
        """Why it cannot run on this machine."""
        if shutil.which(self.command[0]) is None:
            return f"{Path(self.command[0]).name} is not installed: run tests/interop/setup"
        return "" if self.built.exists() else NOT_BUILT

    def version(self) -> str:
        """What the program says of itself."""
        return self.output("--version").strip()

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Start it, give it the job, read what it met."""
        return read_outcomes(self.output(text=job.as_json(place)))

    def output(self, *arguments: str, text: str = "") -> str:
        """What it writes when it is given these arguments, and this text to read."""
        ended = subprocess.run(
            [*self.command, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, **self.environment},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


class NodeProgram(Program):
    """A script for Node, which looks for packages where the script lies."""

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Bring the scripts to the packages, and run."""
        for script in (SOURCES / "node").glob("*.mjs"):
            shutil.copy(script, BUILT / "node")
        return Program.run(self, place, job, scratch)

    def version(self) -> str:
        """The version of the package."""
        script = "console.log(JSON.parse(require('fs').readFileSync(process.argv[1])).version)"
        asked = ["node", "-e", script, str(self.built / "package.json")]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _node(name: str, script: str, package: str, unable: Mapping[str, str]) -> NodeProgram:
    return NodeProgram(
        name,
        ("node", str(BUILT / "node" / script)),
        BUILT / "node" / "node_modules" / package,
        unable,
        {"PENSTOCK_PROTOS": str(ROOT / "protos")},
    )


PROGRAMS: tuple[Program, ...] = (
    Program("C++", (str(BUILT / "cpp" / "client"),), BUILT / "cpp" / "client"),
    Program(
        "grpc-go",
        (str(BUILT / "go" / "client"),),
        BUILT / "go" / "client",
        {"deflate": "it offers gzip only"},
        # What later versions do without being asked.
        {"GRPC_GO_RETRY": "on"},
    ),
    Program(
        "grpc-java",
        (str(BUILT / "java" / "client"),),
        BUILT / "java" / "client",
        {"deflate": "it offers gzip only"},
    ),
    Program(
        "grpclib",
        (sys.executable, str(SOURCES / "python" / "grpclib_client.py")),
        BUILT / "python" / "grpclib",
        dict.fromkeys(("gzip", "gzip stream", "deflate"), "it has no compression")
        | {
            "retry": "it has no retries",
            "error trailers": "it shows no trailers that are gRPC's own",
        },
        PYTHON_ENVIRONMENT,
    ),
    _node("grpc-js", "grpcjs.mjs", "@grpc/grpc-js", {}),
    _node(
        "connect",
        "connect.mjs",
        "@connectrpc/connect-node",
        {
            "deflate": "it offers gzip and brotli",
            "retry": "it has no retries",
        },
    ),
)

REFLECTION = Program(
    "grpcio-reflection",
    (sys.executable, str(SOURCES / "python" / "reflection_client.py")),
    BUILT / "python" / "grpc_reflection",
    environment=PYTHON_ENVIRONMENT,
)
