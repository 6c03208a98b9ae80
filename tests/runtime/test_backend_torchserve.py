"""Laws of TorchServe models: an archive's handler runs as it is, each row of a batch is one of its
requests, and nothing of it is left when the model is gone.

With torchserve on the path the same laws hold of its own classes; tests/interop sees to that.
"""

import io
import json
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.runtime.mar_files import ECHO, mar, members, saved, unpacked
from tests.runtime.model_folders import executable, load, run, start

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.config import InstanceGroup, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument, PenstockError, Unavailable
from penstock_runtime.repository.index import scan
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor


@pytest.fixture(autouse=True)
def unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked in a test."""
    folder = tmp_path / "unpacking"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def texts(*items: bytes) -> Any:
    return np.array([[item] for item in items], dtype=object)


def asking(rows: int, name: str = "r1", **parameters: Any) -> RequestContext:
    inputs = (tensor("data", np.zeros((rows, 1), np.float32)),)
    request = InferRequest("m", inputs, id=name, parameters=parameters, headers={"h": "v"})
    return RequestContext(request, ResponseStream())


FORMS = [mar, unpacked]


@pytest.mark.parametrize("form", FORMS)
def test_a_handler_function_runs_as_it_is(form: Any, tmp_path: Path) -> None:
    """From an archive or a folder: every row is one request, every result one row."""
    answer = run(form(tmp_path, members()), {"data": texts(b"a", b"\xff", b"")})

    assert answer["output"].tolist() == [[b"a"], [b"\xff"], [b""]]


CLASS = """
import os
from ts.torch_handler.base_handler import BaseHandler

class Upper(BaseHandler):
    def initialize(self, context):
        self.context = context
        folder = context.system_properties["model_dir"]
        with open(os.path.join(folder, "suffix.txt")) as file:
            self.suffix = file.read()
        self.initialized = True

    def preprocess(self, data):
        return [(row.get("data") or row.get("body")).decode() for row in data]

    def inference(self, data):
        return [text.upper() for text in data]

    def postprocess(self, data):
        return [{"text": text + self.suffix} for text in data]
"""


def test_a_handler_class_goes_its_three_steps(tmp_path: Path) -> None:
    """initialize is given the folder; what is no text becomes JSON."""
    source = mar(tmp_path, members(CLASS, {"suffix.txt": "!"}))

    answer = run(source, {"data": texts(b"a", b"b")})

    assert answer["output"].tolist() == [[b'{"text": "A!"}'], [b'{"text": "B!"}']]


CONTEXT = """
import json
class Tell(object):
    def initialize(self, context):
        self.context = context
    def handle(self, data, context):
        properties = context.system_properties
        context.set_response_content_type(0, "application/json")
        return [json.dumps({
            "name": context.model_name,
            "handler": context.manifest["model"]["handler"],
            "gpu": properties["gpu_id"],
            "batch": properties["batch_size"],
            "yaml": context.model_yaml_config.get("handler"),
            "id": context.get_request_id(at),
            "header": context.get_request_header(at, "h"),
            "parameter": context.get_request_header(at, "who"),
            "same": context is self.context,
            "counted": context.metrics.add_counter("n", 1) is None,
        }) for at, _ in enumerate(data)]
"""


def test_the_context_says_what_torchserve_s_says(tmp_path: Path) -> None:
    """Model, manifest, device, batch, YAML; ids, headers and parameters of each row's request."""
    yaml = "batchSize: 4\nmaxBatchDelay: 20\nhandler:\n  depth: 3\n"
    source = mar(
        tmp_path,
        members(CONTEXT, {"model-config.yaml": yaml}, configFile="model-config.yaml"),
    )
    asked = [asking(1, "a", who="me"), asking(2, "b")]

    answer = run(source, {"data": texts(b"1", b"2", b"3")}, *asked)
    told = [json.loads(row[0]) for row in answer["output"]]

    assert [one["id"] for one in told] == ["a", "b", "b"]
    assert [one["parameter"] for one in told] == ["me", None, None]
    assert told[0]["name"] == "m"
    assert told[0]["handler"] == "handler.py"
    assert told[0]["gpu"] is None
    assert told[0]["batch"] == 4
    assert told[0]["yaml"] == {"depth": 3}
    assert told[0]["header"] == "v"
    assert told[0]["same"]
    assert asked[0].response_parameters == {"content-type": "application/json"}


def test_the_yaml_becomes_the_configuration(tmp_path: Path) -> None:
    """Batch size, delay in microseconds, workers, device."""
    yaml = "batchSize: 8\nmaxBatchDelay: 50\nminWorkers: 2\ndeviceType: cpu\n"
    source = mar(tmp_path, members(files={"c.yaml": yaml}, configFile="c.yaml"))

    config, loaded = load(source)
    loaded.close()

    assert config.backend == "torchserve"
    assert config.max_batch_size == 8
    assert config.dynamic_batching == DynamicBatching(max_queue_delay_microseconds=50_000)
    assert config.instance_group == (InstanceGroup(count=2, kind="KIND_CPU"),)
    assert config.input == (ModelInput("data", DataType.BYTES, (1,)),)
    assert config.output == (ModelOutput("output", DataType.BYTES, (1,)),)


def test_a_config_properties_says_the_same(tmp_path: Path) -> None:
    """Its entry for the model, over several lines as TorchServe writes it."""
    source = mar(tmp_path, members())
    (source.directory / "config.properties").write_text(
        '# server\ninference_address=http://0.0.0.0:8080\nmodels={\\\n  "m": {\\\n'
        '    "1.0": {"batchSize": 3, "maxBatchDelay": 7, "minWorkers": 1}\\\n  }\\\n}\n'
    )

    config, loaded = load(source)
    loaded.close()

    assert config.max_batch_size == 3
    assert config.dynamic_batching == DynamicBatching(max_queue_delay_microseconds=7_000)


def test_without_either_a_batch_is_one_request(tmp_path: Path) -> None:
    """TorchServe's own default."""
    config, loaded = load(mar(tmp_path, members()))
    loaded.close()

    assert config.max_batch_size == 1
    assert config.dynamic_batching is None
    assert config.instance_group == ()


def configured(
    inputs: tuple[Any, ...], outputs: tuple[Any, ...], size: int = 4, **parameters: str
) -> ModelConfig:
    return ModelConfig(name="m", max_batch_size=size, input=inputs, output=outputs)


KEYS = """
def handle(data, context):
    return None if data is None else [{k: v for k, v in row.items()} for row in data]
"""


def test_numbers_come_as_lists_and_go_as_they_are_declared(tmp_path: Path) -> None:
    """One value per input and row; several outputs are taken by name from a result."""
    code = """
    def handle(data, context):
        if data is None:
            return None
        return [{"total": sum(row["a"]) * row["b"][0], "all": row["a"]} for row in data]
    """
    config = configured(
        (ModelInput("a", DataType.FP32, (2,)), ModelInput("b", DataType.INT32, (1,))),
        (ModelOutput("total", DataType.FP32, (1,)), ModelOutput("all", DataType.FP64, (-1,))),
    )
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[10], [20]], np.int32)

    answer = run(mar(tmp_path, members(code), config), {"a": a, "b": b})

    assert answer["total"].tolist() == [[30.0], [140.0]]
    assert answer["total"].dtype == np.float32
    assert answer["all"].tolist() == a.tolist()


def test_a_single_input_is_found_under_its_usual_names(tmp_path: Path) -> None:
    """data and body, beside its own; several inputs have their own names only."""
    own = configured((ModelInput("image", DataType.BYTES, (1,)),), ())
    code = 'def handle(data, context):\n    return data and [",".join(sorted(r)) for r in data]'

    alone = run(mar(tmp_path / "a", members(code), own), {"image": texts(b"x")})
    two = run(
        mar(
            tmp_path / "b",
            members(code),
            replace(own, input=(*own.input, ModelInput("mask", DataType.BYTES, (1,)))),
        ),
        {"image": texts(b"x"), "mask": texts(b"y")},
    )

    assert alone["output"].tolist() == [[b"body,data,image"]]
    assert two["output"].tolist() == [[b"image,mask"]]


def test_json_is_parsed_where_the_request_says_so(tmp_path: Path) -> None:
    """As TorchServe does for the content type; what is no JSON is the caller's mistake."""
    code = (
        'def handle(data, context):\n    return data and [type(r["body"]).__name__ for r in data]'
    )
    source = mar(tmp_path, members(code))
    said = {"content_type": "application/json"}

    with executable(source) as made:
        instance = cast(Executable, made)
        plain = instance.execute({"data": texts(b'{"a": 1}')}, [asking(1)])
        parsed = instance.execute({"data": texts(b'{"a": 1}')}, [asking(1, **said)])
        with pytest.raises(InvalidArgument, match="'data' is said to be application/json"):
            instance.execute({"data": texts(b"{")}, [asking(1, **said)])

    assert plain["output"].tolist() == [[b"bytearray"]]
    assert parsed["output"].tolist() == [[b"dict"]]


def test_a_model_without_a_batch_gets_one_request(tmp_path: Path) -> None:
    """max_batch_size 0 makes the whole tensor one request's data."""
    code = "def handle(data, context):\n    return data and [sum(map(sum, data[0]['x']))]"
    config = configured(
        (ModelInput("x", DataType.FP32, (-1, 2)),), (ModelOutput("y", DataType.FP32, (1,)),), 0
    )

    answer = run(mar(tmp_path, members(code), config), {"x": np.ones((3, 2), np.float32)})

    assert answer["y"].tolist() == [6.0]


def test_tensors_are_results_too(tmp_path: Path) -> None:
    """What has a tolist is taken for the list that it stands for."""
    code = """
    import torch
    def handle(data, context):
        return data and torch.tensor([r["x"] for r in data]) * 2
    """
    config = configured(
        (ModelInput("x", DataType.FP32, (2,)),), (ModelOutput("y", DataType.FP32, (2,)),)
    )

    answer = run(mar(tmp_path, members(code), config), {"x": np.ones((3, 2), np.float32)})

    assert answer["y"].tolist() == [[2, 2]] * 3


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("return []", Internal, "returned 0 results, expected 2"),
        ("return 'ab'", Internal, "returned a str, expected 2"),
        ("return [object(), 1]", Internal, "output 'output' of model 'm' Object of type object"),
        ("1 / 0", Internal, "division by zero"),
        ("open('/etc/nothing/there')", Internal, "<path>"),
        (
            "context.set_response_status(code=413, phrase='too large', idx=1)\n    return [1, 2]",
            InvalidArgument,
            "answers 413: too large",
        ),
        (
            "context.set_all_response_status(code=503, phrase='')\n    return [1, 2]",
            Internal,
            "answers 503$",
        ),
        (
            "from ts.utils.util import PredictionException\n"
            "    raise PredictionException('bad image', 422)",
            InvalidArgument,
            "answers 422: bad image",
        ),
    ],
)
def test_what_a_handler_does_wrong_is_said(
    body: str, kind: type[PenstockError], message: str, tmp_path: Path
) -> None:
    """Wrong counts, exceptions and statuses, each as its own kind of failure."""
    code = f"def handle(data, context):\n    if data is None:\n        return\n    {body}\n"

    with pytest.raises(kind, match=message) as caught:
        run(mar(tmp_path, members(code)), {"data": texts(b"a", b"b")})
    assert "/etc" not in caught.value.message


def test_a_named_entry_is_called(tmp_path: Path) -> None:
    """handler.py:function, as the archiver takes it; a function is first called without data."""
    code = """
    first = []
    def start(data, context):
        first.append(data)
        return data and [str(first[0])]
    """

    answer = run(mar(tmp_path, members(code, handler="handler.py:start")), {"data": texts(b"x")})

    assert answer["output"].tolist() == [[b"None"]]


def test_each_instance_has_a_handler_of_its_own(tmp_path: Path) -> None:
    """As each worker of TorchServe has; the file is executed once."""
    code = """
    made = []
    class Own:
        def initialize(self, context):
            made.append(self)
        def handle(self, data, context):
            return [f"{made.index(self)} of {len(made)}" for _ in data]
    """
    _, loaded = load(mar(tmp_path, members(code)))
    two = [cast(Any, loaded.executable(Placement(f"m_{number}"))) for number in range(2)]
    answers = [one.execute({"data": texts(b"x")}, [asking(1)])["output"][0, 0] for one in two]
    two[0].close()
    with pytest.raises(Unavailable):
        two[0].execute({"data": texts(b"x")}, [asking(1)])
    two[1].close()
    loaded.close()

    assert answers == [b"0 of 2", b"1 of 2"]


def test_files_of_an_archive_import_each_other(tmp_path: Path) -> None:
    """Modules and packages beside the handler are found, and two models do not share them."""
    code = "from helper import word\nfrom pack import more\n" + ECHO.replace(
        'row["body"]', "word + more"
    )
    files = {"helper.py": "word = 'a'", "pack/__init__.py": "more = 'b'"}
    other = {"helper.py": "word = 'c'", "pack/__init__.py": "more = 'd'"}

    with executable(mar(tmp_path / "1", members(code, files))) as one:
        second = run(mar(tmp_path / "2", members(code, other)), {"data": texts(b"")})
        first = cast(Executable, one).execute({"data": texts(b"")}, [asking(1)])

    assert (first["output"].tolist(), second["output"].tolist()) == ([[b"ab"]], [[b"cd"]])
    assert not {"helper", "pack", "handler"} & set(sys.modules)


def test_nothing_is_left_of_a_model(tmp_path: Path, unpacking: Path) -> None:
    """Unpacked while it is loaded, gone with it: files, modules, entries of sys.path."""
    path, modules = list(sys.path), set(sys.modules)
    _, loaded = load(mar(tmp_path, members(CLASS, {"suffix.txt": "!"})))
    loaded.executable(Placement("m_0")).close()
    (folder,) = unpacking.iterdir()
    mode, names = folder.stat().st_mode & 0o777, {file.name for file in folder.iterdir()}

    loaded.close()

    assert mode == 0o700
    assert names == {"MAR-INF", "handler.py", "suffix.txt"}
    assert not list(unpacking.iterdir())
    assert sys.path == path
    assert not [n for n in set(sys.modules) - modules if n.startswith("_penstock_model_")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class A:\n    pass\n", "nor one class with such a method, but 1 classes"),
        ("x = 1\n", "neither a function handle"),
        ("import gone_from_here\n", "handler.py of model 'm' failed: ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        (CLASS, "initialize of model 'm' failed: FileNotFoundError"),
    ],
)
def test_a_handler_that_does_not_come_up_leaves_nothing(
    code: str, message: str, tmp_path: Path, unpacking: Path
) -> None:
    """The failure is told without a path, and what was unpacked is removed."""
    with pytest.raises(PenstockError, match=message) as caught:
        start(mar(tmp_path, members(code)))

    assert str(tmp_path) not in caught.value.message
    assert not list(unpacking.iterdir())


def test_a_folder_with_an_archive_is_a_model_without_versions(tmp_path: Path) -> None:
    """TorchServe knows no version folders: the archive may lie in the model's own."""
    source = mar(tmp_path, members())
    (source.directory / "model.mar").rename(source.root / "anything.mar")
    source.directory.rmdir()

    folder = scan(tmp_path)["m"]

    assert folder.flat
    assert folder.versions == (1,)


# -- weights ---------------------------------------------------------------------------------------

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1, bias=False)
    def forward(self, x):
        return self.linear(x)
"""
BASE = """
from ts.torch_handler.base_handler import BaseHandler
class Plain(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["x"] for row in data])
"""
NUMBERS = configured(
    (ModelInput("x", DataType.FP32, (2,)),), (ModelOutput("y", DataType.FP32, (1,)),)
)


def script() -> bytes:
    module = torch.nn.Linear(2, 1, bias=False)
    module.weight.data = torch.tensor([[2.0, 3.0]])
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), data)
    return data.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_loaded_by_the_base_handler(tmp_path: Path) -> None:
    """TorchScript is no pickle of objects, and needs nobody's word."""
    source = mar(tmp_path, members(BASE, {"net.pt": script()}, serializedFile="net.pt"), NUMBERS)

    answer = run(source, {"x": np.array([[1, 1], [0, 2]], np.float32)})

    assert answer["y"].tolist() == [[5.0], [6.0]]


def eager(root: Path, name: str = "net.pt") -> ModelSource:
    state = {"linear.weight": torch.tensor([[2.0, 3.0]])}
    files: dict[str, str | bytes] = {"model.py": NET, name: saved(state)}
    return mar(root, members(BASE, files, serializedFile=name, modelFile="model.py"), NUMBERS)


def test_a_state_dict_needs_the_operators_word(tmp_path: Path, unpacking: Path) -> None:
    """With it the class in modelFile is filled; without it no code runs and nothing stays."""
    source = eager(tmp_path)
    before = set(sys.modules)

    with pytest.raises(InvalidArgument, match=r"net.pt is a pickle.*--allow-pickle"):
        start(source)
    left = list(unpacking.iterdir())
    answer = run(replace(source, allow_pickle=True), {"x": np.ones((1, 2), np.float32)})

    assert not left
    assert answer["y"].tolist() == [[5.0]]
    assert "model" not in set(sys.modules) - before


@pytest.mark.parametrize("name", ["extra.pkl", "extra.joblib", "sub/pytorch_model.bin", "x.pth"])
def test_pickles_beside_the_weights_count_as_well(name: str, tmp_path: Path) -> None:
    """Whoever would read them: a handler's code is not looked into."""
    with pytest.raises(InvalidArgument, match="is a pickle"):
        start(mar(tmp_path, members(files={name: saved({"a": torch.ones(1)})})))


def test_other_binaries_are_no_pickles(tmp_path: Path) -> None:
    """A vocabulary may be called .bin."""
    source = mar(tmp_path, members(files={"vocabulary.bin": b"\x00\x01words"}))

    assert run(source, {"data": texts(b"x")})["output"].tolist() == [[b"x"]]
