"""The commands against a server that really serves, in this process."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.transports import chosen

from penstock.cli.main import main
from penstock.cli.serve import with_source
from penstock.client.sync import Client
from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import decode_response
from penstock.config import ServerOptions
from penstock.embedded import BackgroundServer
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.tensor import tensor

MODEL = """\
from collections.abc import Iterator
from penstock import FP32, INT32, model

{code}
"""
DOUBLE = """
@model(max_batch_size=4)
def double(X: FP32[-1]) -> FP32[-1].named("Y"):
    return X * 2
"""
COUNT = """
@model
def count(N: INT32[1]) -> Iterator[INT32[1].named("I")]:
    for i in range(int(N[0])):
        yield i
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("models")
    for name, code in {"double": DOUBLE, "count": COUNT}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(MODEL.format(code=code))
    options = ServerOptions(
        model_repository=(str(root),),
        model_control_mode="explicit",
        load_model=("*",),
        transport=chosen(),
        grpc_address=("127.0.0.1",),
        grpc_port=0,
        metrics_port=0,
    )
    with BackgroundServer(options) as server:
        yield server.grpc_address


@pytest.fixture(autouse=True)
def here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)


def test_infer_prints_the_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    """Values go in as JSON, names, shapes and values come out."""
    code = main(["infer", "double", "--input", "X=[1,2.5]", "--id", "r7"])

    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("double/1 id=r7  ")
    assert "Y  FP32[1,2]\n    [[2. 5.]]" in out


def test_infer_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """An answer a line, in the REST form of the protocol."""
    main(["infer", "double", "--input", "X=[[1],[2]]", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert answer["outputs"] == [
        {"name": "Y", "datatype": "FP32", "shape": [2, 1], "data": [2.0, 4.0]}
    ]


def test_infer_prints_a_stream_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each answer of a stream is printed; a stream may be empty."""
    main(["infer", "count", "--input", "N=3", "--stream", "--json"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main(["infer", "count", "--input", "N=0", "--stream"])

    assert [answer["outputs"][0]["data"] for answer in answers] == [[0], [1], [2]]
    assert "answered with nothing" in capsys.readouterr().out


def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The status and the text of the server, and code 2."""
    code = main(["infer", "nothing", "--random"])

    assert code == 2
    assert capsys.readouterr().err == (
        "penstock infer: NOT_FOUND: Request for unknown model: 'nothing' is not found\n"
    )


def test_models_are_listed_with_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, objects for programs."""
    main(["infer", "double", "--random"])
    capsys.readouterr()

    main(["models"])
    text = capsys.readouterr().out
    main(["models", "--json", "--ready"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert text.splitlines()[0].split()[:3] == ["MODEL", "VERSION", "STATE"]
    assert [line.split()[:3] for line in text.splitlines()[1:]] == [
        ["count", "1", "READY"],
        ["double", "1", "READY"],
    ]
    assert objects[1]["requests"] >= 1


def test_models_are_unloaded_and_loaded(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each says what it did, and the server did it; overrides go along."""
    assert main(["unload", "double"]) == 0
    gone = main(["health", "--service", "model:double"])
    assert main(["load", "double"]) == 0
    back = main(["health", "--service", "model:double"])
    config = tmp_path / "c.json"
    config.write_text('{"max_batch_size": 2}')
    code = tmp_path / "other.py"
    code.write_text(MODEL.format(code=DOUBLE.replace("* 2", "* 3")))

    loaded = main(["load", "double", "--config", str(config), "--file", f"1/model.py={code}"])
    with Client(url) as client:
        tripled = client.infer("double", {"X": np.ones((1, 1), np.float32)})["Y"].item()
        limit = client.model_config("double").max_batch_size
    main(["load", "double"])

    assert (gone, back, loaded) == (1, 0, 0)
    assert (tripled, limit) == (3.0, 2)
    assert "double is unloaded\n" in capsys.readouterr().out


@pytest.mark.parametrize("service", ["", "readiness", "liveness", "model:double"])
def test_health_is_a_word_and_a_code(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    """SERVING is success."""
    assert main(["health", "--service", service]) == 0
    assert capsys.readouterr().out == "SERVING\n"


def test_health_of_an_unknown_service_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """A probe that asks for the wrong name must not pass."""
    assert main(["health", "--service", "model:nothing"]) == 1
    assert capsys.readouterr().out == "SERVICE_UNKNOWN\n"


def test_the_selftest_passes_against_our_own_server(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check is ok, none is skipped."""
    code = main(["selftest", "--model", "double"])

    out = capsys.readouterr().out
    assert "FAIL" not in out
    assert code == 0
    assert out.splitlines()[-1].endswith(" ok, 0 skipped, 0 failed")


def test_the_selftest_finds_a_model_that_answers_one_by_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --model a decoupled one is passed over."""
    assert main(["selftest"]) == 0
    capsys.readouterr()


def test_the_selftest_says_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that fails is a line with the reason, and the code is 1."""
    code = main(["selftest", "--model", "nothing"])

    out = capsys.readouterr().out
    assert code == 1
    assert "FAIL the index lists the model as READY: nothing is not READY in the index" in out


@pytest.mark.parametrize("options", [["double"], ["count", "--stream", "--input", "N=2"]])
def test_bench_has_a_row_for_each_concurrency(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of a short load, with the server's CPU, without errors."""
    load = ["--concurrency", "1,4", "--duration", "0.2", "--warmup", "0.05", "--json"]

    code = main(["bench", *options, *load])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["concurrency"] for row in rows] == [1, 4]
    assert all(row["requests"] > 0 and row["errors"] == 0 for row in rows)


def test_bench_reports_failures(capsys: pytest.CaptureFixture[str]) -> None:
    """Requests that fail are counted, explained, and make the code 1."""
    load = ["--concurrency", "1", "--duration", "0.1", "--warmup", "0.05"]

    code = main(["bench", "double", "--input", "X=[[1],[1],[1],[1],[1]]", *load])

    captured = capsys.readouterr()
    assert code == 1
    assert "IN FLIGHT" in captured.out
    assert "INVALID_ARGUMENT" in captured.err


def test_the_demo_needs_the_demo_models(capsys: pytest.CaptureFixture[str]) -> None:
    """A server without any of them is told apart from one that is not there."""
    code = main(["demo"])

    captured = capsys.readouterr()
    assert code == 2
    assert "has no model of the demo; start it with: make run" in captured.err


def test_init_writes_what_the_model_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is complete, passes lint, and is not overwritten by accident."""
    version = tmp_path / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL.format(code=DOUBLE))
    folder = str(tmp_path / "double")

    codes = [main(["init", folder]), main(["init", folder]), main(["init", folder, "--force"])]
    text = (tmp_path / "double" / "config.pbtxt").read_text()
    linted = main(["lint", folder])

    assert codes == [0, 2, 0]
    assert 'name: "double"' in text
    assert "max_batch_size: 4" in text
    assert linted == 0
    assert "is there already; --force replaces it" in capsys.readouterr().err


def test_a_python_file_is_served_with_the_modules_beside_it(tmp_path: Path) -> None:
    """FILE.py and FILE.py:NAME are a repository of one, for as long as it is served."""
    (tmp_path / "factor.py").write_text("FACTOR = 10\n")
    code = DOUBLE.replace("* 2", "* FACTOR") + "\ndef other(X: FP32[1]) -> FP32[1]:\n    return X\n"
    file = tmp_path / "tenfold.py"
    file.write_text("from factor import FACTOR\n" + MODEL.format(code=code))
    plain = ServerOptions(
        transport=chosen(), grpc_address=("127.0.0.1",), grpc_port=0, metrics_port=0
    )

    answers = []
    for source, shape in ((str(file), (1, 1)), (f"{file}:other", (1,))):
        with (
            with_source(plain, source) as options,
            BackgroundServer(options) as server,
            Client(server.grpc_address) as client,
        ):
            name = client.index()[0].name
            result = client.infer(name, {"X": np.ones(shape, np.float32)})
            answers.append(next(iter(result.values())).item())

    assert name == "tenfold"
    assert answers == [10.0, 1.0]
    assert not Path(options.model_repository[0]).exists()
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    assert not {str(file), str(tmp_path / "factor.py")} & set(files), "modules outlive the model"


def test_a_python_file_is_served_with_the_labels_beside_it(tmp_path: Path) -> None:
    """What @model(labels=...) names is found where the file is, and only there."""
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    file = tmp_path / "pets.py"
    mark = '@model(labels={"Y": "names.txt"})'
    body = 'def pets(X: FP32[2]) -> FP32[2].named("Y"):\n    return X\n'
    file.write_text(f"from penstock import FP32, model\n\n\n{mark}\n{body}")
    plain = ServerOptions(
        transport=chosen(), grpc_address=("127.0.0.1",), grpc_port=0, metrics_port=0
    )

    with (
        with_source(plain, str(file)) as options,
        BackgroundServer(options) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        wanted = (RequestedOutput("Y", {"classification": 1}),)
        x = tensor("X", np.array([1, 2], np.float32))
        reply = decode_response(infer(encode_request(InferRequest("pets", (x,), outputs=wanted))))

    assert reply.outputs[0].numpy().tolist() == [b"2.000000:1:dog"]
