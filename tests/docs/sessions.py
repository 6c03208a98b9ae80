"""Follows a chapter of the documentation as a reader does: files are written, servers started and
commands typed, in a folder of its own.

Ports and addresses of the text are exchanged for free ones, since several tests run at a time.
"""

import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.docs.pages import Block

PORTS = ("8000", "8001", "8002", "8080", "8081", "8082", "9000")
READY_S = 30
_COMMAND = """#!{python}
import os, sys
sys.path[:0] = {path}
if os.environ.get("DOCS_STAND_IN_FOR_MLSERVER"):
    import pytest
    from tests.runtime.mlserver_package import install
    install(pytest.MonkeyPatch())
from penstock.cli.main import main
sys.exit(main())
"""


class Session:
    """One reader in one folder; servers end with it."""

    def __init__(self, folder: Path, names: Mapping[str, str], **more: str) -> None:
        self.folder = folder
        self.printed = ""
        self._free = dict(zip(PORTS, free_ports(), strict=False))
        self._names = names
        self._environment = self._make_environment(more)
        self._server: subprocess.Popen[bytes] | None = None

    def follow(self, blocks: Iterable[Block]) -> None:
        """Do what each block says; AssertionError tells the block that did not do."""
        for block in blocks:
            text = self._mine(block.text)
            if block.mark == "file":
                path = self.folder / block.argument
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif block.mark == "prints":
                said = self.printed.strip()
                assert said.endswith(text.strip()), f"line {block.line}: {said}"
            elif block.mark == "run":
                self.printed = ""
                for command in _commands(text) if block.language == "sh" else [text]:
                    self._do(command, block)

    def close(self) -> None:
        """End the server, if there is one."""
        if self._server is None:
            return
        self._server.terminate()
        assert self._server.wait(READY_S) == 0
        self._server = None

    def _do(self, command: str, block: Block) -> None:
        if command.startswith("penstock serve"):
            self._serve(command, block)
            return
        python = [sys.executable, "-c", command]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command] if block.language == "sh" else python,
            **self._common(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = f"line {block.line}: {command}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said
        self.printed += done.stdout

    def _serve(self, command: str, block: Block) -> None:
        self.close()
        log = self.folder / "server.log"
        with log.open("wb") as stream:
            words = ["bash", "-c", f"exec {command}"]
            self._server = subprocess.Popen(words, stderr=stream, **self._common())
        while self._server.poll() is None:
            # A look at the log costs little; a client would be a process for each.
            if b"penstock.server: ready" in log.read_bytes():
                return
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(0.02)
        raise AssertionError(f"line {block.line}: {command}\n{log.read_text()}")

    def _common(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self._environment}

    def _mine(self, text: str) -> str:
        """The text with this session's names and ports in place of the page's."""
        for name, mine in self._names.items():
            text = text.replace(name, mine)
        return re.sub(r"(?<=[:=])\d{4}\b", lambda m: self._free.get(m[0], m[0]), text)

    def _make_environment(self, more: Mapping[str, str]) -> dict[str, str]:
        commands = self.folder / ".bin"
        commands.mkdir()
        command = commands / "penstock"
        command.write_text(_COMMAND.format(python=sys.executable, path=sys.path))
        command.chmod(0o755)
        free = self._free
        outside = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        return {
            **outside,
            "PATH": f"{commands}:{Path(sys.executable).parent}:{outside.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PENSTOCK_URL": f"localhost:{free['8001']}",
            "PENSTOCK_GRPC_PORT": free["8001"],
            "PENSTOCK_HTTP_PORT": free["8000"],
            "PENSTOCK_METRICS_PORT": free["8002"],
            **{f"PENSTOCK_{kind}_ADDRESS": "127.0.0.1" for kind in ("GRPC", "HTTP", "METRICS")},
            "PENSTOCK_DRAIN_DELAY": "0",
            "PENSTOCK_EXIT_TIMEOUT_SECS": "5",
            **more,
        }


def free_ports() -> Iterator[str]:
    """Ports to listen on later: not among those that a system gives to whoever asks for any."""
    for port in random.SystemRandom().sample(range(11_000, 32_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            yield str(port)


def _commands(text: str) -> Iterator[str]:
    """What is typed at once: each start of a server by itself, all lines between together."""
    typed = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        command = line.partition("  #")[0].rstrip()
        if command.startswith("penstock serve"):
            if typed.strip():
                yield typed
            yield command
            typed = ""
        else:
            typed += command + "\n"
    if typed.strip():
        yield typed
