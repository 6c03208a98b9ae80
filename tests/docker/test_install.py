"""The steps that build the CPU image also work here, in a fresh environment."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.docker.dockerfile import ROOT, Dockerfile, Instruction, expand, read

from penstock.version import __version__

IMAGE = read(ROOT / "docker" / "Dockerfile.cpu")
ENVIRONMENT = "/opt/penstock"
MODELS = ROOT / "tests" / "models"


def replay(image: Dockerfile, place: Path) -> Path:
    """Run the instructions of the build stage below `place`; where the environment came to lie."""
    stage = image.stages[0]
    target = place / "penstock"
    source = place / "src"
    source.mkdir(parents=True)
    arguments = {name: value for name, value in stage.pairs("ARG").items() if value}
    environment = {**os.environ, **arguments, **stage.pairs("ENV")}
    # The image keeps no cache; a test may use the one that is there.
    environment.pop("PIP_NO_CACHE_DIR", None)
    for instruction in stage.instructions:
        if instruction.keyword == "COPY":
            copy(instruction, source)
        elif instruction.keyword == "RUN":
            script = instruction.value.replace(ENVIRONMENT, str(target))
            script = script.replace("python -m venv", f"{sys.executable} -m venv")
            run(["sh", "-ec", script], source, environment)
    return target


def copy(instruction: Instruction, source: Path) -> None:
    *names, destination = instruction.words()
    for name in names:
        target = source / destination
        if destination.endswith("/"):
            target = target / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)


def run(command: list[str], place: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=place, env=dict(environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def runtime_environment(installed: Path, cache: Path) -> dict[str, str]:
    """What the image sets, with its places moved to where the replay put them."""
    outer = {"PATH": os.environ["PATH"]}
    values = {
        name: expand(value, outer)
        .replace(ENVIRONMENT, str(installed))
        .replace("/var/cache/penstock", str(cache))
        for name, value in IMAGE.final.pairs("ENV").items()
    }
    return {**values, "TMPDIR": str(cache)}


def serve_until_healthy(installed: Path, cache: Path, environment: Mapping[str, str]) -> int:
    """Run CMD until HEALTHCHECK is content, then stop it as a container is; its exit code."""
    program = str(installed / "bin" / IMAGE.final.last("ENTRYPOINT").words()[0])
    words = [word.replace("/models", str(MODELS)) for word in IMAGE.final.last("CMD").words()]
    port = free_port()
    settings = {
        **environment,
        "PENSTOCK_GRPC_PORT": str(port),
        "PENSTOCK_METRICS_PORT": "0",
        "PENSTOCK_URL": f"127.0.0.1:{port}",
    }
    probe = json.loads(IMAGE.final.last("HEALTHCHECK").value.partition("CMD ")[2])
    with (cache / "log").open("wb") as log:
        server = subprocess.Popen([program, *words], cwd=cache, env=settings, stderr=log)
        try:
            while subprocess.run([program, *probe[1:]], env=settings, check=False).returncode != 0:
                assert server.poll() is None, (cache / "log").read_text()
            server.send_signal(signal.SIGTERM)
            return server.wait(60)
        finally:
            server.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def files(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_file()}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_steps_of_the_image_install_a_server_that_runs(tmp_path: Path) -> None:
    """What is built serves, passes its own health check, and writes nothing beside its cache."""
    installed = replay(IMAGE, tmp_path / "build")
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = runtime_environment(installed, cache)
    shutil.rmtree(tmp_path / "build" / "src")
    before = files(installed)
    [program] = IMAGE.final.last("ENTRYPOINT").words()
    command = [str(installed / "bin" / program)]

    version = run([*command, "--version"], cache, environment)
    code = serve_until_healthy(installed, cache, environment)
    imported = run(
        [str(installed / "bin" / "python"), "-c", "import torch, yaml, uvloop; print('all')"],
        cache,
        environment,
    )

    assert version == f"penstock {__version__}\n"
    assert code == 0
    assert imported == "all\n"
    assert files(installed) == before
