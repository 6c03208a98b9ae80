"""`penstock demo` from end to end, with small stand-ins for the models that need torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.server.fake_language_model import write_talker
from tests.transports import chosen

from penstock import Client
from penstock.cli.main import main
from penstock.config import ServerOptions
from penstock.embedded import BackgroundServer

ROOT = Path(__file__).resolve().parents[2]
# Knows a digit by the point that is bright, and takes each 7 for a 1.
DIGITS = """
import numpy as np
from penstock import FP32, INT64, model

@model(max_batch_size=64)
def digits(IMAGE: FP32[8, 8]) -> tuple[FP32[10].named("PROBABILITIES"), INT64[1].named("CLASS")]:
    found = IMAGE.reshape(len(IMAGE), -1).argmax(axis=1)
    found[found == 7] = 1
    return np.eye(10, dtype=np.float32)[found], found[:, None]
"""
# Texts are alike if they share letters.
MINILM = """
import numpy as np
from penstock import BYTES, FP32, model

@model(max_batch_size=32)
def minilm(TEXT: BYTES[1]) -> FP32[384].named("EMBEDDING"):
    vectors = np.zeros((len(TEXT), 384), np.float32)
    for row, (text,) in zip(vectors, TEXT):
        np.add.at(row, list(text), 1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("demo")
    for name, code in {"digits": DIGITS, "minilm": MINILM}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(code)
    write_talker(root)
    for name in ("repeat", "cosine", "likeness"):
        shutil.copytree(ROOT / "examples" / "models" / name, root / name)
    options = ServerOptions(
        model_repository=(str(root),),
        transport=chosen(),
        grpc_address=("127.0.0.1",),
        grpc_port=0,
        metrics_port=0,
    )
    with BackgroundServer(options) as server:
        yield server.grpc_address


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    labels = np.arange(50) % 10
    images = np.zeros((50, 64), np.float32)
    images[np.arange(50), labels] = 16
    np.savez(tmp_path / "digits.npz", images=images.reshape(50, 8, 8), labels=labels)
    return tmp_path / "digits.npz"


def test_the_ensemble_of_the_demo_compares_two_texts(url: str) -> None:
    """Both go through the embedder, and their vectors are compared."""
    first = np.array([[b"abc"], [b"abc"]], object)
    second = np.array([[b"cab"], [b"xyz"]], object)

    with Client(url) as client:
        found = client.infer("likeness", {"FIRST": first, "SECOND": second})["LIKENESS"]

    np.testing.assert_allclose(found, [[1], [0]], atol=1e-6)


def test_the_demo_shows_everything(
    url: str, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures with answers and the accuracy, sentences, a stream, and the calls of others."""
    code = main(["demo", "--url", url, "--samples", str(samples)])

    out = capsys.readouterr().out
    assert code == 0
    assert out.count("✓") == 9
    assert "1 ✗ it is 7  100%" in out
    assert "45 of 50 images that the model has never seen are right (90.0%)" in out
    assert out.count("is nearest to") == 3
    assert [f"OUT = {2**power}\n" in out for power in range(8)] == [True] * 8
    assert "def read_file(DEF READ_FILE( \n2 tokens in" in out
    assert "1 WHAT DOES OS.PATH.JOIN DO? \n5 tokens in" in out
    assert f"triton.InferenceServerClient({url!r})" in out
    assert out.count("grpcurl -plaintext") == 4


def test_without_samples_the_rest_is_shown(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures need a file; what does not goes on without it."""
    monkeypatch.setattr("penstock.cli.demo.find_samples", lambda: None)

    code = main(["demo", "--url", url])

    out = capsys.readouterr().out
    assert code == 0
    assert "python examples/build_repository.py makes them" in out
    assert "is nearest to" in out


def test_samples_that_are_not_there_are_one_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path is an error before anything is sent."""
    code = main(["demo", "--url", url, "--samples", "/no/such.npz"])

    assert code == 2
    assert "/no/such.npz: No such file or directory" in capsys.readouterr().err
