"""Laws of Python models, one: what of a directory is loaded, and that its modules stay private."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tests.runtime.model_folders import (
    HEADER,
    context,
    executable,
    load,
    run,
    source_of,
    write_model,
)

from penstock_runtime.backends.base import (
    Executable,
    ModelSource,
    Placement,
)
from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    ModelInput,
    ModelParameter,
)
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    Internal,
    InvalidArgument,
)

ONES = np.ones((2, 3), np.float32)
IDENTITY = "def predict(x: FP32[3]) -> FP32[3]: return x"


def test_a_function_without_a_configuration_is_a_model(tmp_path: Path) -> None:
    """The annotations alone make a complete configuration, and the function answers."""
    source = write_model(
        tmp_path,
        """
        @model(max_batch_size=8, instances=2, labels={"OUTPUT0": "labels.txt"})
        def predict(x: FP32[3], bias: FP32[3] | None = None) -> FP32[3]:
            return x * 2 + (0 if bias is None else bias)
        """,
    )

    config, loaded = load(source)
    with executable(source) as made:
        plain = cast(Executable, made).execute({"x": ONES}, [context()])
        biased = cast(Executable, made).execute({"x": ONES, "bias": ONES}, [context()])
    loaded.close()

    assert config.backend == "python"
    assert config.max_batch_size == 8
    assert config.dynamic_batching == DynamicBatching()
    assert config.instance_group == (InstanceGroup(count=2),)
    assert config.input[1] == ModelInput("bias", DataType.FP32, (3,), optional=True)
    assert config.output[0].label_filename == "labels.txt"
    assert plain["OUTPUT0"].tolist() == (ONES * 2).tolist()
    assert biased["OUTPUT0"].tolist() == (ONES * 3).tolist()


@pytest.mark.parametrize(
    ("text", "entry", "expected"),
    [
        ("def predict(x: FP32[3]) -> FP32[3]: return x + 1", "", 2),
        ("class Model:\n  def predict(self, x: FP32[3]) -> FP32[3]: return x + 2", "", 3),
        ("class Model:\n  def __call__(self, x: FP32[3]) -> FP32[3]: return x + 3", "", 4),
        (f"{IDENTITY}\n@model\ndef other(x: FP32[3]) -> FP32[3]: return x + 4", "", 5),
        (f"{IDENTITY}\ndef other(x: FP32[3]) -> FP32[3]: return x + 5", "other", 6),
        (f"{IDENTITY}\ndef other(x: FP32[3]) -> FP32[3]: return x + 6", "model:other", 7),
        (f"{IDENTITY}\nfrom extra import predict as imported", "extra:predict", 8),
    ],
)
def test_the_model_is_what_the_entry_names_or_what_is_marked_or_the_usual_name(
    tmp_path: Path, text: str, entry: str, expected: int
) -> None:
    """entry, @model, Model, predict: in this order."""
    extra = HEADER + "def predict(x: FP32[3]) -> FP32[3]: return x + 7"
    source = write_model(tmp_path, text, extra=extra)
    parameters = {"entry": ModelParameter(entry)} if entry else {}
    source = replace(source, config=ModelConfig(name="m", parameters=parameters))

    outputs = run(source, {"x": ONES})

    assert outputs["OUTPUT0"][0, 0] == expected


@pytest.mark.parametrize(
    ("text", "entry", "expected"),
    [
        ("def answer(x: FP32[1]) -> FP32[1]: ...", "", "found answer"),
        ("X = 1", "", "found neither classes nor functions"),
        ("@model\ndef a(): ...\n@model\ndef b(): ...", "", r"has 2 models \(a, b\)"),
        (IDENTITY, "missing", "no class or function 'missing' .* it has .*predict"),
        (IDENTITY, "../evil:predict", "expected 'Name' or 'file:Name'"),
        (IDENTITY, "os:system", r"has no file 'os\.py'"),
    ],
)
def test_a_file_without_one_model_is_refused_by_what_it_has(
    tmp_path: Path, text: str, entry: str, expected: str
) -> None:
    """The error lists what was found, and no name leads out of the directory."""
    source = write_model(tmp_path, text)
    parameters = {"entry": ModelParameter(entry)} if entry else {}
    source = replace(source, config=ModelConfig(name="m", parameters=parameters))

    with pytest.raises(InvalidArgument, match=expected):
        load(source)


def test_a_model_for_tritons_own_python_backend_is_recognised(tmp_path: Path) -> None:
    """Also beside a class Model, which is a part of it; one without execute() is none."""
    text = "class Model: ...\nclass TritonPythonModel:\n  def execute(self, requests): ..."
    source = write_model(tmp_path, text)

    _, loaded = load(source)
    loaded.close()

    assert type(loaded).__name__ == "LoadedTriton"
    with pytest.raises(InvalidArgument, match="has no execute"):
        load(write_model(tmp_path, "class TritonPythonModel: ..."))


@pytest.mark.parametrize("filename", ["../model.py", "/etc/passwd", ".hidden.py", "a\\b.py"])
def test_a_file_name_never_leaves_the_version_directory(tmp_path: Path, filename: str) -> None:
    """A path in default_model_filename is refused."""
    source = write_model(tmp_path, IDENTITY)
    config = ModelConfig(name="m", backend="python", default_model_filename=filename)

    with pytest.raises(InvalidArgument, match="is not the name of a file"):
        load(replace(source, config=config))


def test_a_link_out_of_the_models_folder_is_refused(tmp_path: Path) -> None:
    """Code outside the repository is not executed through a link."""
    source = write_model(tmp_path, IDENTITY)
    (tmp_path / "outside.py").write_text("raise SystemExit('executed')")
    (source.directory / "model.py").unlink()
    (source.directory / "model.py").symlink_to(tmp_path / "outside.py")

    with pytest.raises(InvalidArgument, match="leads out of the model's folder"):
        load(source)


def test_an_unknown_backend_is_refused_and_never_imported(tmp_path: Path) -> None:
    """A backend's name is looked up, not imported."""
    source = write_model(tmp_path, IDENTITY)

    with pytest.raises(InvalidArgument, match=r"backend is 'os\.path', expected one of"):
        load(source, backend="os.path")


def test_files_that_no_backend_knows_are_listed(tmp_path: Path) -> None:
    """The error shows the files, and which ones would do."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "weights.h5").write_text("")

    with pytest.raises(InvalidArgument, match=r"only weights\.h5; expected model\.py"):
        load(source_of(tmp_path / "m" / "1"))


def test_an_edited_file_is_executed_at_the_next_load(tmp_path: Path) -> None:
    """Also when the edit leaves size and time stamp as they were, and for siblings."""
    text = "from helper import K\ndef predict(x: FP32[3]) -> FP32[3]: return x * 0 + K + 0"
    source = write_model(tmp_path, text, helper="K = 1")
    files = [source.directory / "model.py", source.directory / "helper.py"]
    stamps = [os.stat(file) for file in files]
    before = run(source, {"x": ONES})["OUTPUT0"][0, 0]

    files[0].write_text(files[0].read_text().replace("+ 0", "+ 5"))
    files[1].write_text("K = 2")
    for file, stamp in zip(files, stamps, strict=True):
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = run(source, {"x": ONES})["OUTPUT0"][0, 0]

    assert (before, after) == (1, 7)
    assert not list(source.directory.rglob("__pycache__"))


def test_two_models_have_helpers_of_the_same_name_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Siblings are private to a load: plain, relative, nested, and inside a function."""
    text = """
    import helper
    import package.inner
    from package import inner as again
    from .helper import K as relative
    def predict(x: FP32[3]) -> FP32[3]:
        import helper as late
        from package.inner import DEEP
        assert late is helper and relative == helper.K and again is package.inner
        return x * 0 + late.K + DEEP
    """
    found = []
    before, path = set(sys.modules), list(sys.path)
    for number in (1, 2):
        source = write_model(tmp_path / str(number), text, helper=f"K = {number}")
        package = source.directory / "package"
        package.mkdir()
        (package / "__init__.py").write_text("import helper\nBASE = helper.K")
        (package / "inner.py").write_text("from . import BASE\nDEEP = BASE * 10")
        found.append(load(source)[1])

    values = []
    for loaded in found:
        made = cast(Executable, loaded.executable(Placement("m_0")))
        values.append(made.execute({"x": ONES}, [context()])["OUTPUT0"][0, 0])
        made.close()
        loaded.close()

    assert values == [11, 22]
    assert sys.path == path
    assert not {name for name in set(sys.modules) - before if "helper" in name or "_model_" in name}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def predict(:", "load of|model.py of model 'm' failed: SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('weights at /srv/secret/w.bin')", "ValueError: weights at <path>"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_executed_says_why(tmp_path: Path, text: str, expected: str) -> None:
    """The load fails with the file's own error, without paths, and leaves no module."""
    source = write_model(tmp_path, text)

    with pytest.raises(Internal, match=expected):
        load(source)

    assert not [name for name in sys.modules if name.startswith("_penstock_model_")]


def test_a_python_model_never_imports_torch(tmp_path: Path) -> None:
    """Registry, completion, load and execution of a Python model leave torch alone."""
    source = write_model(tmp_path, IDENTITY)
    program = f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
import numpy as np
from tests.runtime.model_folders import run, source_of
run(source_of(Path({str(source.directory)!r})), {{"x": np.ones(3, np.float32)}})
assert "torch" not in sys.modules
"""

    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.returncode == 0


def test_a_missing_directory_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """A version that went away between scan and load is refused."""
    source = ModelSource(ModelConfig(name="m"), 1, tmp_path / "gone", tmp_path)

    with pytest.raises(InvalidArgument, match="nothing that can be read"):
        load(source)
