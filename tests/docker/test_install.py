"""The steps that build the CPU image also work here, in a fresh environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.docker.dockerfile import ROOT, Dockerfile, Instruction, expand, read

from penstock.version import __version__

IMAGE = read(ROOT / "docker" / "Dockerfile.cpu")
ENVIRONMENT = "/opt/penstock"


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


def files(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_file()}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_steps_of_the_image_install_a_server_that_runs(tmp_path: Path) -> None:
    """What is built answers to its entry point and writes nothing beside its cache."""
    installed = replay(IMAGE, tmp_path / "build")
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = runtime_environment(installed, cache)
    shutil.rmtree(tmp_path / "build" / "src")
    before = files(installed)
    [program] = IMAGE.final.last("ENTRYPOINT").words()
    command = [str(installed / "bin" / program)]

    version = run([*command, "--version"], cache, environment)
    served = run([*command, IMAGE.final.last("CMD").words()[0], "--help"], cache, environment)
    imported = run(
        [str(installed / "bin" / "python"), "-c", "import torch, yaml, uvloop; print('all')"],
        cache,
        environment,
    )

    assert version == f"penstock {__version__}\n"
    assert "--model-repository" in served
    assert imported == "all\n"
    assert files(installed) == before
