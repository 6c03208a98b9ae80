"""Laws of models of MLServer: their classes run as they are, asked and answered with mlserver's own
messages, and what their settings say becomes their configuration.
"""

import importlib
import json
import threading
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import numpy as np
import pytest
from tests.runtime.mlserver_package import install
from tests.runtime.model_folders import context, executable, load, responses, run, source_of, start

from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, TransactionPolicy
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Cancelled, Internal, InvalidArgument, PenstockError, Unsupported
from penstock_runtime.repository.index import scan
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

HEADER = """
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput

def answer(name, shape, datatype, data, **more):
    output = ResponseOutput(name=name, shape=list(shape), datatype=datatype, data=list(data))
    return InferenceResponse(model_name="m", outputs=[output], **more)
"""
DOUBLE = """
class Double(MLModel):
    async def load(self) -> bool:
        self.factor = 2
        return True

    async def predict(self, payload):
        x = payload.inputs[0]
        return answer("y", x.shape, x.datatype, [self.factor * v for v in x.data])
"""


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def metadata(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2)) -> Any:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def write(root: Path, code: str, kind: str = "Double", /, **changes: Any) -> ModelSource:
    """A model whose models.py is this code, with settings beside it."""
    directory = root / "m" / "1"
    directory.mkdir(parents=True)
    (directory / "models.py").write_text(HEADER + dedent(code))
    settings = {
        "name": "m",
        "implementation": f"models.{kind}",
        "inputs": [metadata("x")],
        "outputs": [metadata("y")],
        **changes,
    }
    (directory / "model-settings.json").write_text(json.dumps(settings))
    return source_of(directory)


def numbers(*values: float) -> Any:
    return np.array(values, np.float32).reshape(-1, 2)


def asking(rows: int, *wanted: str, **parameters: Any) -> RequestContext:
    request = InferRequest(
        "m",
        (tensor("x", np.zeros((rows, 2), np.float32)),),
        id="r1",
        outputs=tuple(RequestedOutput(name) for name in wanted),
        parameters=parameters,
    )
    return RequestContext(request, ResponseStream())


def test_a_custom_runtime_runs_as_it_is(tmp_path: Path) -> None:
    """load() is awaited, predict() is given mlserver's messages, its response is the answer."""
    answer = run(write(tmp_path, DOUBLE), {"x": numbers(1, 2, 3, 4)})

    np.testing.assert_array_equal(answer["y"], numbers(2, 4, 6, 8))
    assert answer["y"].dtype == np.float32


def test_settings_become_the_configuration(tmp_path: Path) -> None:
    """Without batching the shapes are whole; the class is found in the model's own file."""
    config, loaded = load(write(tmp_path, DOUBLE))
    loaded.close()

    assert config.backend == "mlserver"
    assert config.max_batch_size == 0
    assert config.input == (ModelInput("x", DataType.FP32, (-1, 2)),)
    assert config.output == (ModelOutput("y", DataType.FP32, (-1, 2)),)
    assert not config.decoupled


def test_adaptive_batching_becomes_the_dynamic_batcher(tmp_path: Path) -> None:
    """The size, the time in microseconds, and shapes without their first dimension."""
    config, loaded = load(write(tmp_path, DOUBLE, max_batch_size=8, max_batch_time=0.25))
    loaded.close()

    assert config.max_batch_size == 8
    assert config.dynamic_batching == DynamicBatching(max_queue_delay_microseconds=250_000)
    assert config.input == (ModelInput("x", DataType.FP32, (2,)),)


@pytest.mark.parametrize(("size", "time"), [(1, 0.1), (8, 0), (0, 0.1)])
def test_half_of_it_is_no_batching(size: int, time: float, tmp_path: Path) -> None:
    """As in MLServer, both a size above one and a time are needed."""
    source = write(tmp_path, DOUBLE, max_batch_size=size, max_batch_time=time)

    config, loaded = load(source)
    loaded.close()

    assert config.max_batch_size == 0
    assert config.dynamic_batching is None


def test_a_batch_needs_a_first_dimension_that_varies(tmp_path: Path) -> None:
    """A fixed one cannot be joined along."""
    fixed = [metadata("x", shape=(1, 2))]

    with pytest.raises(InvalidArgument, match="first dimension, and that of 'x'"):
        load(write(tmp_path, DOUBLE, inputs=fixed, max_batch_size=8, max_batch_time=1))


def test_a_model_in_a_namespace_is_still_that_of_its_folder(tmp_path: Path) -> None:
    """Its settings name the folder, whatever name it is served under."""
    source = replace(write(tmp_path, DOUBLE), config=ModelConfig(name="first::m"))

    config, loaded = load(source)
    loaded.close()

    assert config.name == "first::m"


def test_a_configuration_wins_over_the_settings(tmp_path: Path) -> None:
    """What config.pbtxt says stays."""
    config = ModelConfig(name="m", max_batch_size=3, input=(ModelInput("x", DataType.FP32, (2,)),))
    source = replace(write(tmp_path, DOUBLE, max_batch_size=8, max_batch_time=1), config=config)

    completed, loaded = load(source)
    loaded.close()

    assert completed.max_batch_size == 3
    assert completed.dynamic_batching is None
    assert completed.output == (ModelOutput("y", DataType.FP32, (2,)),)


EVERYTHING = """
class Tell(MLModel):
    async def predict(self, payload):
        p = payload.parameters
        said = [
            str(payload.id),
            ",".join(o.name for o in payload.outputs or []),
            str(getattr(p, "who", None)),
            str(p and p.headers),
            payload.inputs[0].datatype,
            str(payload.inputs[0].shape),
            type(list(payload.inputs[0].data)[0]).__name__,
        ]
        more = Parameters(content_type="str", n=3, flag=True, skipped=[1])
        return answer("y", [len(said)], "BYTES", said, parameters=more, id="other")
"""


def test_the_message_says_what_the_request_says(tmp_path: Path) -> None:
    """Id, wanted outputs, parameters and headers in; parameters that the wire knows out."""
    source = write(tmp_path, EVERYTHING, "Tell", outputs=[metadata("y", "BYTES", (-1,))])
    request = InferRequest(
        "m",
        (),
        id="r7",
        outputs=(RequestedOutput("y"),),
        parameters={"who": "me"},
        headers={"a": "b"},
    )
    asked = RequestContext(request, ResponseStream())

    answer = run(source, {"x": numbers(1, 2)}, asked)

    expected = ["r7", "y", "me", "{'a': 'b'}", "FP32", "[1, 2]", "float"]
    assert answer["y"].tolist() == [text.encode() for text in expected]
    assert asked.response_parameters == {"content_type": "str", "n": 3, "flag": True}


@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BF16])
def test_every_datatype_goes_through(datatype: DataType, tmp_path: Path) -> None:
    """Values come back as they went, of the same datatype."""
    values: Any = np.array([0, 1, 1]).astype(datatype.numpy)
    if datatype is DataType.BYTES:
        values = np.array([b"a", b"", b"\xff\x00"], dtype=object)
    tensors = {
        "inputs": [metadata("x", datatype.value, (-1,))],
        "outputs": [metadata("y", datatype.value, (-1,))],
    }
    echo = """
    class Echo(MLModel):
        async def predict(self, payload):
            x = payload.inputs[0]
            return answer("y", x.shape, x.datatype, x.data)
    """

    answer = run(write(tmp_path, echo, "Echo", **tensors), {"x": values})

    assert answer["y"].dtype == datatype.numpy
    assert answer["y"].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("shape", "datatype", "data", "expected"),
    [
        ("[2]", "FP32", "[1.0, None]", [1.0, None]),
        ("[2, 2]", "BYTES", "[b'abcdefgh']", [[b"ab", b"cd"], [b"ef", b"gh"]]),
        ("[1]", "BYTES", "['ä']", ["ä".encode()]),
        ("[2, 1]", "INT64", "[1, 2]", [[1], [2]]),
    ],
)
def test_outputs_are_read_as_mlserver_writes_them(
    shape: str, datatype: str, data: str, expected: Any, tmp_path: Path
) -> None:
    """None for NaN, fixed-width bytes packed into one, text for bytes."""
    code = f"""
    class Fixed(MLModel):
        async def predict(self, payload):
            return answer("y", {shape}, "{datatype}", {data})
    """
    source = write(tmp_path, code, "Fixed", outputs=[metadata("y", datatype, (-1,))])

    found = run(source, {"x": numbers(1, 2)})["y"].tolist()

    assert [None if v != v else v for v in found] == expected


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ('answer("z", [1], "FP32", [1.0])', "output 'z' of model 'm' is not declared"),
        ('answer("y", [3], "FP32", [1.0])', r"has 1 elements, expected 3 for its shape \[3\]"),
        ('answer("y", [1], "FP32", ["a"])', "'y' of model 'm' is a list"),
        ('answer("y", [1], "INT32", [1.5])', "'y' of model 'm' is float64, expected INT32"),
        ("1 / 0", "division by zero"),
        ("open('/etc/nothing/there')", "<path>"),
    ],
)
def test_what_a_model_does_wrong_is_said(returned: str, message: str, tmp_path: Path) -> None:
    """The output, what it is and what was expected; no path and no stack trace."""
    code = f"""
    class Wrong(MLModel):
        async def predict(self, payload):
            return {returned}
    """

    with pytest.raises(Internal, match=message) as caught:
        run(write(tmp_path, code, "Wrong"), {"x": numbers(1, 2)})
    assert "/etc" not in caught.value.message


COUNTS = """
class Rows(MLModel):
    async def predict(self, payload):
        x = payload.inputs[0]
        rows, who = x.shape[0], getattr(payload.parameters, "who", "")
        name = payload.outputs[0].name if payload.outputs else "y"
        text = [f"{rows}{who}"] * rows
        return answer(name, [rows, 1], "BYTES", text, parameters=Parameters(rows=rows))
"""


def batched(root: Path) -> ModelSource:
    outputs = [metadata("y", "BYTES", (-1, 1)), metadata("z", "BYTES", (-1, 1))]
    more = {"outputs": outputs, "max_batch_size": 8, "max_batch_time": 0.1}
    return write(root, COUNTS, "Rows", **more)


def test_requests_of_one_likeness_are_one_message(tmp_path: Path) -> None:
    """A batch is joined along its first dimension; all of it shares the response's parameters."""
    asked = [asking(2), asking(1)]

    answer = run(batched(tmp_path), {"x": np.zeros((3, 2), np.float32)}, *asked)

    assert answer["y"].tolist() == [[b"3"]] * 3
    assert [one.response_parameters for one in asked] == [{"rows": 3}] * 2


def test_requests_that_differ_are_not_mixed(tmp_path: Path) -> None:
    """Nobody gets an answer to another one's parameters or wanted outputs."""
    asked = [asking(2, who="a"), asking(1, who="b"), asking(1, "z", who="b")]

    answer = run(batched(tmp_path), {"x": np.zeros((4, 2), np.float32)}, *asked)

    assert answer["y"][:3].tolist() == [[b"2a"], [b"2a"], [b"1b"]]
    assert answer["z"][3:].tolist() == [[b"1b"]]


STREAM = """
class Count(MLModel):
    async def predict_stream(self, payloads):
        async for payload in payloads:
            for number in range(3):
                yield answer("y", [1, 2], "FP32", [number, number], parameters=Parameters(n=number))
"""


def test_a_model_that_only_streams_is_decoupled(tmp_path: Path) -> None:
    """predict_stream is given one request and answers as often as it likes."""
    source = write(tmp_path, STREAM, "Count")

    config, loaded = load(source)
    loaded.close()
    found = responses(source, {"x": numbers(1, 2)})

    assert config.decoupled
    assert [float(one["y"][0, 0]) for one in found] == [0, 1, 2]


def test_a_model_that_does_both_is_asked_as_configured(tmp_path: Path) -> None:
    """predict, unless the configuration says decoupled."""
    code = DOUBLE + STREAM.replace("class Count(MLModel)", "class Both(Double)")
    source = write(tmp_path, code, "Both")
    decoupled = ModelConfig(name="m", model_transaction_policy=TransactionPolicy(True))

    one = run(source, {"x": numbers(1, 2)})
    many = responses(replace(source, config=decoupled), {"x": numbers(1, 2)})

    assert one["y"].tolist() == [[2, 4]]
    assert len(many) == 3


def test_a_stream_that_is_given_up_is_closed(tmp_path: Path) -> None:
    """The model's generator runs its finally."""
    code = f"""
    from pathlib import Path
    class Endless(MLModel):
        async def predict_stream(self, payloads):
            try:
                while True:
                    yield answer("y", [1, 2], "FP32", [0, 0])
            finally:
                Path({str(tmp_path / "ended")!r}).write_text("yes")
    """
    with executable(write(tmp_path, code, "Endless")) as made:
        produced = cast(Any, made).stream({"x": numbers(1, 2)}, context())
        next(produced)
        produced.close()

    assert (tmp_path / "ended").read_text() == "yes"


def test_a_request_that_nobody_waits_for_is_cancelled(tmp_path: Path) -> None:
    """predict() is cancelled where it awaits; the model goes on with the next request."""
    code = f"""
    import asyncio
    from pathlib import Path
    class Slow(MLModel):
        async def predict(self, payload):
            try:
                await asyncio.sleep(payload.inputs[0].data[0])
            except asyncio.CancelledError:
                Path({str(tmp_path / "cancelled")!r}).write_text("yes")
                raise
            return answer("y", [1, 2], "FP32", [0, 0])
    """
    stream = ResponseStream()
    stream.cancel()
    with executable(write(tmp_path, code, "Slow")) as made:
        instance = cast(Executable, made)
        with pytest.raises(Cancelled):
            instance.execute({"x": numbers(60, 0)}, [context(stream=stream)])
        after = instance.execute({"x": numbers(0, 0)}, [context()])

    assert (tmp_path / "cancelled").read_text() == "yes"
    assert after["y"].shape == (1, 2)


def test_a_failing_stream_is_the_models_failure(tmp_path: Path) -> None:
    """What came before the failure is given; then the failure."""
    code = """
    class Breaks(MLModel):
        async def predict_stream(self, payloads):
            yield answer("y", [1, 2], "FP32", [0, 0])
            raise ValueError("worn out")
    """
    with executable(write(tmp_path, code, "Breaks")) as made:
        produced = cast(Any, made).stream({"x": numbers(1, 2)}, context())
        next(produced)
        with pytest.raises(Internal, match="worn out"):
            next(produced)


def test_instances_share_one_object_and_unload_ends_it(tmp_path: Path) -> None:
    """However many start at once, load is awaited once; unload once, at the end."""
    code = f"""
    from pathlib import Path
    def note(word):
        with Path({str(tmp_path / "calls")!r}).open("a") as file:
            file.write(word)
    class Counted(MLModel):
        async def load(self) -> bool:
            note("load ")
            return True
        async def unload(self) -> bool:
            note("unload ")
            return True
        async def predict(self, payload):
            return answer("y", [1, 2], "FP32", [float(self.ready), 0.0])
    """
    _, loaded = load(write(tmp_path, code, "Counted"))
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(loaded.executable(Placement(f"m_{n}"))))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [cast(Executable, one).execute({"x": numbers(1, 2)}, [context()]) for one in made]
    for one in made:
        one.close()
    with pytest.raises(PenstockError, match="closed"):
        made[0].execute({"x": numbers(1, 2)}, [context()])
    loaded.close()

    assert [answer["y"][0, 0] for answer in answers] == [1.0] * 3
    assert (tmp_path / "calls").read_text().split() == ["load", "unload"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return False", "said that it is not ready"),
        ("raise OSError('no weights in /secret/place/w.bin')", "load of model 'm' failed: OSError"),
    ],
)
def test_a_load_that_fails_keeps_the_model_away(body: str, message: str, tmp_path: Path) -> None:
    """load() that raises or answers False ends the load; nothing of it is left."""
    code = f"""
    class Fails(MLModel):
        async def load(self) -> bool:
            {body}
    """
    before = threading.active_count()

    with pytest.raises(Internal, match=message) as caught:
        start(write(tmp_path, code, "Fails"))

    assert "/secret" not in caught.value.message
    assert threading.active_count() == before


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "is for model 'other'"),
        ({"implementation": "os.system"}, "neither a file of the model's folder nor"),
        ({"implementation": "subprocess.Popen"}, "neither a file of the model's folder nor"),
        ({"implementation": "mlserver.MLModel"}, "neither a file of the model's folder nor"),
        ({"implementation": "models"}, "'module.Class'"),
        ({"implementation": "../x.Y"}, "'module.Class'"),
        ({"implementation": "models.answer"}, "no class that derives from mlserver.MLModel"),
        ({"implementation": "models.Gone"}, "no class that derives from mlserver.MLModel"),
        ({"parameters": {"uri": "../../etc/passwd"}}, "leads out of the model's folder"),
        ({"parameters": {"uri": "/etc/passwd"}}, "leads out of the model's folder"),
        ({"parameters": {"uri": "file:///etc/passwd"}}, "leads out of the model's folder"),
        ({"parameters": {"environment_tarball": "e.tar.gz"}}, "asks for parameters.environment_t"),
        ({"inputs": []}, "has no inputs"),
        ({"outputs": None}, "has no outputs"),
        ({"inputs": [metadata("x", "FP8")]}, r"inputs\[0\].datatype is 'FP8'"),
        ({"inputs": [metadata("x", "BF16")]}, r"inputs\[0\].datatype is 'BF16'"),
        ({"inputs": [metadata("x", shape=(0,))]}, r"inputs\[0\].shape"),
        ({"inputs": [metadata("x"), metadata("x")]}, "each name once"),
        ({"inputs": [metadata("")]}, "expected a name"),
        ({"inputs": 3}, "inputs is 3"),
        ({"max_batch_size": -1}, "max_batch_size is -1"),
        ({"max_batch_time": "soon"}, "max_batch_time is 'soon'"),
    ],
)
def test_settings_that_cannot_be_served_say_why(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The field, what it is, and what would be right."""
    source = write(tmp_path, DOUBLE, **changes)
    with pytest.raises(InvalidArgument, match=message) as caught:
        load(source)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 200, "\xff"])
def test_a_file_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    """Broken, doubled and deep JSON end the load."""
    source = write(tmp_path, DOUBLE)
    (source.directory / "model-settings.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(InvalidArgument):
        load(source)


def builtin(root: Path, implementation: str, uri: str) -> ModelSource:
    return write(root, DOUBLE, implementation=implementation, parameters={"uri": uri, "extra": {}})


@pytest.mark.parametrize(
    ("implementation", "uri"),
    [
        ("mlserver_sklearn.SKLearnModel", "./model.bin"),
        ("mlserver_xgboost.XGBoostModel", "./model.pkl"),
        ("mlserver_lightgbm.LightGBMModel", "model.joblib"),
        ("mlserver_mlflow.MLflowRuntime", "."),
    ],
)
def test_a_pickle_needs_the_operators_word(implementation: str, uri: str, tmp_path: Path) -> None:
    """Runtimes that unpickle are refused before anything is imported or read."""
    with pytest.raises(InvalidArgument, match="--allow-pickle"):
        load(builtin(tmp_path, implementation, uri))


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """The package to install is said; the configuration could be completed without it."""
    source = builtin(tmp_path, "mlserver_nothing.NothingModel", "./model.json")
    backend = default_registry().find(source)

    config = backend.complete(source)
    with pytest.raises(Unsupported, match="pip install mlserver-nothing"):
        backend.load(replace(source, config=config))

    assert config.input == (ModelInput("x", DataType.FP32, (-1, 2)),)


def test_without_mlserver_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A custom runtime cannot be told from anything else where mlserver is missing."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    source = write(tmp_path, DOUBLE)
    monkeypatch.setattr(importlib, "import_module", missing)

    with pytest.raises(Unsupported, match=r"penstock\[mlserver\]"):
        load(source)


def test_a_folder_with_settings_is_a_model_without_versions(tmp_path: Path) -> None:
    """MLServer knows no version folders: the files lie in the model's own."""
    source = write(tmp_path, DOUBLE)
    source.directory.rename(tmp_path / "m" / "x")
    for file in (tmp_path / "m" / "x").iterdir():
        file.rename(tmp_path / "m" / file.name)

    folder = scan(tmp_path)["m"]

    assert folder.flat
    assert folder.versions == (1,)
    assert not folder.problem
    assert folder.directory(1) == tmp_path / "m"
