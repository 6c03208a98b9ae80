"""`penstock init` and `penstock lint` over ONNX models and models of MLServer and TorchServe."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime import mar_files, onnx_folders
from tests.runtime.mlserver_package import install

from penstock.cli.lint import lint
from penstock.cli.main import main

CLASS = """
from mlserver import MLModel
class Mine(MLModel):
    async def predict(self, payload):
        return payload
"""


def settings(**changes: Any) -> str:
    tensor = {"datatype": "FP32", "shape": [-1, 4]}
    given = {
        "name": "m",
        "implementation": "mine.Mine",
        "max_batch_size": 16,
        "max_batch_time": 0.005,
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        **changes,
    }
    return json.dumps(given)


def mlserver_folder(root: Path, **changes: Any) -> Path:
    folder = root / "m"
    folder.mkdir()
    (folder / "mine.py").write_text(CLASS)
    (folder / "model-settings.json").write_text(settings(**changes))
    return folder


def mar_folder(root: Path, content: Any) -> Path:
    folder = root / "m"
    folder.mkdir()
    (folder / "m.mar").write_bytes(mar_files.archive(content))
    return folder


def printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What init prints of a folder, which lint then has nothing to say of."""
    assert main(["init", str(folder), "--print"]) == 0
    text = capsys.readouterr().out
    assert main(["init", str(folder)]) == 0
    capsys.readouterr()
    assert lint(folder.parent) == (1, [])
    assert (folder / "config.pbtxt").read_text() == text
    return text


def test_init_asks_an_onnx_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own names, datatypes and dims, the batch among them."""
    onnx_folders.stored(tmp_path, onnx_folders.sums())

    text = printed(tmp_path / "m", capsys)

    assert 'backend: "onnxruntime"' in text
    assert "max_batch_size: 4" in text
    assert 'name: "difference"' in text
    assert "dims: [4]" in text


def test_init_reads_a_model_settings_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batching and tensors of the settings, in a folder without versions."""
    install(monkeypatch)

    text = printed(mlserver_folder(tmp_path), capsys)

    assert 'backend: "mlserver"' in text
    assert "max_batch_size: 16" in text
    assert "max_queue_delay_microseconds: 5000" in text


def test_init_reads_a_mar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batching of the archive's YAML; one text in, one out."""
    yaml = "batchSize: 8\nmaxBatchDelay: 100\n"
    content = mar_files.members(files={"c.yaml": yaml}, configFile="c.yaml")

    text = printed(mar_folder(tmp_path, content), capsys)

    assert 'backend: "torchserve"' in text
    assert "max_batch_size: 8" in text
    assert "max_queue_delay_microseconds: 100000" in text
    assert "TYPE_STRING" in text


def findings(root: Path) -> list[tuple[str, str, str]]:
    return [(f.place, f.severity, f.text) for f in lint(root)[1]]


def test_lint_looks_into_settings(tmp_path: Path) -> None:
    """What would end the load is an error, at the file; nothing is imported for it."""
    mlserver_folder(tmp_path, implementation="gone.Mine", inputs=[])

    (first, second) = findings(tmp_path)

    assert first[:2] == ("m/model-settings.json", "error")
    assert "no file gone.py here" in first[2]
    assert "has no inputs" in second[2]


def test_lint_says_which_model_needs_the_operators_word(tmp_path: Path) -> None:
    """A runtime that unpickles is a warning: the flag is not lint's to know."""
    mlserver_folder(tmp_path, implementation="mlserver_sklearn.SKLearnModel")

    ((place, severity, text),) = findings(tmp_path)

    assert (place, severity) == ("m/model-settings.json", "warning")
    assert "--allow-pickle" in text


@pytest.mark.parametrize(
    ("content", "severity", "message"),
    [
        ({"handler.py": ""}, "error", "MANIFEST.json is missing"),
        (mar_files.members(handler="gone.py"), "error", "handler gone.py is not there"),
        (mar_files.members(files={"../x": ""}), "error", "outside of its folder"),
        (mar_files.members(requirementsFile="r.txt"), "warning", "nothing is installed"),
    ],
)
def test_lint_looks_into_archives(
    content: Any, severity: str, message: str, tmp_path: Path
) -> None:
    """The manifest, the list of members, the handler; nothing is unpacked."""
    folder = mar_folder(tmp_path, content)

    ((place, found, text),) = findings(tmp_path)

    assert place == "m/MAR-INF/MANIFEST.json"
    assert found == severity
    assert message in text
    assert [path.name for path in folder.iterdir()] == ["m.mar"]


def test_lint_looks_into_onnx_models(tmp_path: Path) -> None:
    """Weights outside of the folder, and options that no session takes."""
    weights = np.ones((4, 2), np.float32)
    model = onnx_folders.outside(onnx_folders.linear(weights), "../w.bin")
    onnx_folders.stored(tmp_path / "a", model)
    onnx_folders.stored(tmp_path / "b", onnx_folders.sums())
    (tmp_path / "b" / "m" / "config.pbtxt").write_text(
        'parameters { key: "execution_mode" value { string_value: "7" } }'
    )

    ((place, severity, text),) = findings(tmp_path / "a")
    ((_, _, other),) = findings(tmp_path / "b")

    assert (place, severity) == ("m/1/model.onnx", "error")
    assert "outside of its folder" in text
    assert "execution_mode is '7'" in other
