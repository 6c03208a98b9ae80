"""The classification extension as tritonclient uses it, on each transport: the highest values of an
output as text, with the labels of the model's folder.
"""

import queue
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

FRUIT = "apple\nbanana\n\nquince\n"
CODE = """\
from collections.abc import Iterator

import numpy as np
from penstock import FP16, FP32, INT32, model


"""
MODELS = {
    "fruit": """\
@model(max_batch_size=8, labels={"Y": "labels.txt"})
def fruit(X: FP32[5]) -> FP32[5].named("Y"):
    return X * 2
""",
    "flat": """\
@model(labels={"Y": "1/names/labels.txt"})
def flat(X: INT32[2, 2]) -> INT32[2, 2].named("Y"):
    return X
""",
    "stream": """\
@model(labels={"Y": "labels.txt"})
def stream(X: FP32[3]) -> Iterator[FP32[3].named("Y")]:
    for shift in range(3):
        yield np.roll(X, shift)
""",
    "wide": """\
@model
def wide(X: INT32[1]) -> INT32[-1].named("Y"):
    return np.zeros(X[0], np.int32)
""",
    "halves": """\
@model
def halves(X: INT32[1]) -> FP16[1].named("Y"):
    raise AssertionError("a request that is refused is not executed")
""",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with label files and without."""
    root = tmp_path_factory.mktemp("classes")
    for name, code in MODELS.items():
        version = root / name / "1"
        (version / "names").mkdir(parents=True)
        (version / "model.py").write_text(CODE + code)
        for place in (root / name, version / "names"):
            (place / "labels.txt").write_text(FRUIT)
    return root


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(repository: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server with them, on each transport."""
    with ServerThread(options([repository], transport=request.param)) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def x(values: Any) -> list[Any]:
    """The only input."""
    array = np.asarray(values)
    datatype = "FP32" if array.dtype == np.float32 else "INT32"
    tensor = triton.InferInput("X", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return [tensor]


def top(count: int) -> list[Any]:
    """So many classes of the only output."""
    return [triton.InferRequestedOutput("Y", class_count=count)]


def test_each_row_has_its_classes_with_their_labels(client: Any) -> None:
    """The same for the first request of its kind and for those after it."""
    rows = np.array([[1, 5, 4, 2, 3], [0, 0, 0, 0, -1]], np.float32)

    results = [client.infer("fruit", x(rows), outputs=top(3)) for _ in range(4)]

    for result in results:
        assert result.get_output("Y").datatype == "BYTES"
        assert result.as_numpy("Y").tolist() == [
            [b"10.000000:1:banana", b"8.000000:2", b"6.000000:4"],
            [b"0.000000:0:apple", b"0.000000:1:banana", b"0.000000:2"],
        ]


def test_a_model_that_does_not_batch_has_one_row(client: Any) -> None:
    """All elements count, in row-major order; more classes than there are is all of them."""
    result = client.infer("flat", x(np.array([[3, -9], [7, 3]], np.int32)), outputs=top(1000))

    assert result.as_numpy("Y").tolist() == [b"7:2", b"3:0:apple", b"3:3:quince", b"-9:1:banana"]


def test_callers_who_ask_for_the_numbers_get_them(client: Any) -> None:
    """Also among those who ask for classes."""
    rows = np.ones((1, 5), np.float32)

    client.infer("fruit", x(rows), outputs=top(1))
    results = [
        client.infer("fruit", x(rows)),
        client.infer("fruit", x(rows), outputs=[triton.InferRequestedOutput("Y")]),
    ]

    for result in results:
        np.testing.assert_array_equal(result.as_numpy("Y"), rows * 2)


def streamed(client: Any, model: str, values: Any, outputs: Sequence[Any], count: int) -> list[Any]:
    """So many answers to one request on a stream, results or errors."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer(model, x(values), outputs=outputs)
    found = [answers.get(timeout=20) for _ in range(count)]
    client.stop_stream()
    return found


def test_a_stream_has_classes_too(client: Any) -> None:
    """Of an ordinary model, and of each response of a decoupled one."""
    (ordinary,) = streamed(client, "fruit", np.array([[1, 2, 3, 4, 0]], np.float32), top(1), 1)
    decoupled = streamed(client, "stream", np.array([3, 2, 1], np.float32), top(2), 3)

    assert ordinary.as_numpy("Y").tolist() == [[b"8.000000:3:quince"]]
    assert [result.as_numpy("Y").tolist() for result in decoupled] == [
        [b"3.000000:0:apple", b"2.000000:1:banana"],
        [b"3.000000:1:banana", b"2.000000:2"],
        [b"3.000000:2", b"2.000000:0:apple"],
    ]


@pytest.mark.parametrize(
    ("model", "elements", "text"),
    [
        ("wide", 1_000_001, "classification output tensor too large"),
        (
            "halves",
            1,
            "class result not available for output due to unsupported type 'FP16'",
        ),
    ],
)
def test_what_cannot_be_classified_is_refused(
    client: Any, model: str, elements: int, text: str
) -> None:
    """With the same text on a unary call and on a stream; the server goes on."""
    values = np.array([elements], np.int32)

    with pytest.raises(InferenceServerException) as unary:
        client.infer(model, x(values), outputs=top(1))
    (on_stream,) = streamed(client, model, values, top(1), 1)
    after = client.infer("wide", x(np.array([2], np.int32)), outputs=top(1))

    assert (unary.value.status(), unary.value.message()) == ("StatusCode.INVALID_ARGUMENT", text)
    assert on_stream.message() == text
    assert after.as_numpy("Y").tolist() == [b"0:0"]


def test_a_reload_brings_new_labels(repository: Path, tmp_path: Path) -> None:
    """Also where nothing but the labels has changed."""
    folder = shutil.copytree(repository / "fruit", tmp_path / "fruit")
    settings = options([tmp_path], model_control_mode="explicit")
    rows = np.ones((1, 5), np.float32)

    found = []
    with (
        ServerThread(settings) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        for label in ("apple", "pear"):
            (folder / "labels.txt").write_text(f"{label}\n")
            client.load_model("fruit")
            found.append(client.infer("fruit", x(rows), outputs=top(1)).as_numpy("Y").item())

    assert found == [b"2.000000:0:apple", b"2.000000:0:pear"]


def test_labels_that_lie_elsewhere_keep_a_model_from_being_served(tmp_path: Path) -> None:
    """By a path or by a link: the load fails, and the reason names the file and no other path."""
    (tmp_path / "secret.txt").write_text("secret\n")
    for name in ("linked", "missing", "dotted"):
        version = tmp_path / "models" / name / "1"
        version.mkdir(parents=True)
        labels = {"dotted": "../../secret.txt"}.get(name, "labels.txt")
        code = MODELS["fruit"].replace("labels.txt", labels)
        (version / "model.py").write_text(CODE + code)
    (tmp_path / "models" / "dotted" / "labels.txt").write_text(FRUIT)
    inside = tmp_path / "models" / "dotted" / "labels.txt"
    (tmp_path / "models" / "linked" / "labels.txt").symlink_to(inside)

    with (
        ServerThread(options([tmp_path / "models"])) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=20)

    reasons = {model.name: model.reason for model in index.models}
    assert {model.state for model in index.models} == {"UNAVAILABLE"}
    assert "label file 'labels.txt' of output 'Y' of model 'linked' leads out" in reasons["linked"]
    assert "of model 'missing' is not there" in reasons["missing"]
    assert "leads out of the model's folder" in reasons["dotted"]
    assert not any(str(tmp_path) in reason for reason in reasons.values())
