"""Models of other servers with the packages of those servers: the laws that the adapters hold with
their stand-ins, once more, and what only the real ones have.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.server_process import ServerProcess, server_process

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "interop"
MLSERVER = BUILT / "mlserver" / "bin" / "python"
TORCHSERVE = BUILT / "torchserve"
OURS = [str(ROOT / part) for part in ("server", "runtime", "kernels", "protos", ".")]
TRAIN = """
import sys, joblib, numpy
from sklearn.linear_model import LinearRegression
x = numpy.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
joblib.dump(LinearRegression().fit(x, x @ [2.0, 3.0]), sys.argv[1])
"""


def have_mlserver() -> None:
    if not (MLSERVER.parents[1] / "lib").exists() or not list(
        MLSERVER.parents[1].glob("lib/python*/site-packages/mlserver_sklearn")
    ):
        pytest.skip("mlserver is not there; tests/interop/setup installs it")


def have_torchserve() -> None:
    if not (TORCHSERVE / "ts").is_dir():
        pytest.skip("torchserve is not there; tests/interop/setup installs it")


def laws(python: str, path: list[str], *files: str) -> str:
    """What pytest says of these files in another environment; it has to be happy."""
    done = subprocess.run(
        [python, "-m", "pytest", "-qp", "no:cacheprovider", "-o", "filterwarnings=default", *files],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return done.stdout


def test_mlservers_own_package_keeps_the_laws() -> None:
    """Every law of the adapter, and codecs, with mlserver itself."""
    have_mlserver()

    said = laws(
        str(MLSERVER),
        OURS,
        "tests/runtime/test_backend_mlserver.py",
        "tests/runtime/mlserver_codecs.py",
    )

    assert "failed" not in said
    assert "skipped" not in said


def test_torchserves_own_classes_keep_the_laws() -> None:
    """Handlers that derive from torchserve's BaseHandler, with torchserve itself."""
    have_torchserve()
    path = [*filter(None, sys.path), str(TORCHSERVE)]
    check = "from penstock_runtime.backends.torchserve.package import *; assert find_package().real"

    found = subprocess.run(
        [sys.executable, "-c", check],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    said = laws(sys.executable, path, "tests/runtime/test_backend_torchserve.py")

    assert found.returncode == 0
    assert "failed" not in said


def test_an_archive_of_the_real_archiver_is_served(tmp_path: Path) -> None:
    """torch-model-archiver writes what is loaded here."""
    have_torchserve()
    (tmp_path / "mine.py").write_text(
        "def handle(data, context):\n    return data and [r['body'][::-1] for r in data]\n"
    )
    (tmp_path / "c.yaml").write_text("batchSize: 4\nmaxBatchDelay: 1\n")
    (tmp_path / "repository" / "turn").mkdir(parents=True)
    arguments = ["--model-name=turn", "--version=1.0", "--handler=mine.py", "--config-file=c.yaml"]
    arguments.append(f"--export-path={tmp_path / 'repository' / 'turn'}")
    subprocess.run(
        [sys.executable, "-m", "model_archiver.model_packaging", *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(TORCHSERVE)]),
        },
        check=True,
    )

    with server_process(tmp_path / "repository") as server:
        answer = ask(server, "turn", "BYTES", data=np.array([[b"abc"]], dtype=object))
        # Asked to end, it removes what it unpacked.
        server.signal(signal.SIGTERM)
        code = server.exit_code()

    assert code == 0
    assert answer.as_numpy("output").tolist() == [[b"cba"]]


@pytest.fixture
def sklearn_model(tmp_path: Path) -> Path:
    """A regression as MLServer's users keep one: joblib, and settings without a version folder."""
    have_mlserver()
    folder = tmp_path / "repository" / "prices"
    folder.mkdir(parents=True)
    train = [str(MLSERVER), "-c", dedent(TRAIN), str(folder / "model.joblib")]
    subprocess.run(train, check=True)
    settings = {
        "name": "prices",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v0.1.0"},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1, 1]}],
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return tmp_path / "repository"


def ask(server: ServerProcess, model: str, datatype: str, **arrays: Any) -> Any:
    ((name, array),) = arrays.items()
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    address = server.address()
    server.wait_for("ready")
    with triton.InferenceServerClient(address) as client:
        return client.infer(model, [tensor])


def test_mlservers_sklearn_runtime_is_served(sklearn_model: Path) -> None:
    """The runtime that MLServer brings, unmodified, once the operator allows its pickle."""
    x = np.array([[1, 1], [2, 0]], np.float32)

    with server_process(
        sklearn_model, "--allow-pickle=prices", python=str(MLSERVER), path=OURS
    ) as server:
        answer = ask(server, "prices", "FP32", x=x)

    np.testing.assert_allclose(answer.as_numpy("predict"), [[5], [4]], atol=1e-5)


def test_without_the_operators_word_nothing_is_unpickled(sklearn_model: Path) -> None:
    """The server says which flag it would take."""
    with server_process(
        sklearn_model, "--exit-on-error=true", python=str(MLSERVER), path=OURS
    ) as server:
        said = server.wait_for("--allow-pickle")

    assert "mlserver_sklearn reads a pickle" in said
