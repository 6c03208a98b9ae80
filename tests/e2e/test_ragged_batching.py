"""Ragged batches, optional inputs, shape tensors and warm-up as tritonclient sees them."""

import queue
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException

from penstock_runtime.datatype import from_numpy

# Long enough for three requests to meet, and not waited for once they have.
BATCHING = "dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 5000000 }"
CPU = "instance_group [ { kind: KIND_CPU } ]"
SEGMENTS = f"""
max_batch_size: 8
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ -1, 2 ] allow_ragged_batch: true }} ]
output [
  {{ name: "Y" data_type: TYPE_FP32 dims: [ -1, 2 ] }},
  {{ name: "TOLD" data_type: TYPE_FP32 dims: [ 7 ] }}
]
batch_input [
  {{ kind: BATCH_ELEMENT_COUNT target_name: "COUNT" data_type: TYPE_FP32 source_input: "X" }},
  {{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: [ "ENDS", "SAME" ]
     data_type: TYPE_INT32 source_input: "X" }},
  {{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "BOUNDS"
     data_type: TYPE_INT32 source_input: "X" }},
  {{ kind: BATCH_MAX_ELEMENT_COUNT_AS_SHAPE target_name: "MOST"
     data_type: TYPE_FP32 source_input: "X" }},
  {{ kind: BATCH_ITEM_SHAPE target_name: "SHAPES" data_type: TYPE_INT32 source_input: "X" }},
  {{ kind: BATCH_ITEM_SHAPE_FLATTEN target_name: "FLAT" data_type: TYPE_INT32 source_input: "X" }}
]
batch_output [ {{ target_name: "Y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "X" }} ]
{BATCHING}
"""
SEGMENTS_CODE = """
def predict(X, COUNT, ENDS, SAME, BOUNDS, MOST, SHAPES, FLAT):
    assert X.ndim == 1 and (ENDS == SAME).all() and (BOUNDS[1:] == ENDS).all()
    rows = len(SHAPES)
    assert FLAT.tolist() == SHAPES.reshape(-1).tolist() and len(FLAT) == 2 * rows
    of_batch = np.tile(np.float32([len(COUNT), len(X), len(MOST)]), (rows, 1))
    # Every request of these tests has one row, so that what is told of each is of its row.
    own = np.stack([COUNT, ENDS, SHAPES[:, 0], SHAPES[:, 1]], axis=1).astype(np.float32)
    return {"Y": X * 2, "TOLD": np.concatenate([of_batch, own], axis=1)}
"""
WORDS = f"""
max_batch_size: 8
input [ {{ name: "X" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true }} ]
output [ {{ name: "Y" data_type: TYPE_STRING dims: [ -1 ] }} ]
batch_output [ {{ target_name: "Y" source_input: "X" }} ]
{BATCHING}
"""
WORDS_CODE = "def predict(X): return {'Y': np.array([x.upper() for x in X], object)}"
MAYBE = f"""
max_batch_size: 8
input [
  {{ name: "X" data_type: TYPE_FP32 dims: [ 2 ] }},
  {{ name: "SCALE" data_type: TYPE_FP32 dims: [ 1 ] optional: true }},
  {{ name: "SHIFT" data_type: TYPE_FP32 dims: [ 1 ] optional: true }}
]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }},
         {{ name: "ROWS" data_type: TYPE_INT32 dims: [ 1 ] }} ]
{BATCHING}
"""
MAYBE_CODE = """
def predict(X, SCALE=3, SHIFT=None):
    y = X * SCALE + (0 if SHIFT is None else SHIFT)
    return {"Y": y, "ROWS": np.full((len(X), 1), len(X), np.int32)}
"""
SHAPED = f"""
max_batch_size: 8
input [
  {{ name: "SIZE" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true }},
  {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }}
]
output [
  {{ name: "Y" data_type: TYPE_FP32 dims: [ -1, -1 ] }},
  {{ name: "GOT" data_type: TYPE_INT32 dims: [ 3 ] is_shape_tensor: true }}
]
{BATCHING}
"""
SHAPED_CODE = """
def predict(SIZE, X):
    y = np.broadcast_to(X[:, :, None], (len(X), *SIZE)).copy()
    return {"Y": y, "GOT": np.array([len(X), *SIZE], np.int32)}
"""
WARM = """
max_batch_size: 4
input [
  { name: "X" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ 2, 1, -1 ] } },
  { name: "S" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "SEEN" data_type: TYPE_STRING dims: [ 1 ] } ]
model_warmup [
  { name: "zero" batch_size: 2 count: 2
    inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 2, 3 ] zero_data: true } } },
  { name: "random" batch_size: 1
    inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 2, 1 ] random_data: true } }
    inputs { key: "S" value { data_type: TYPE_STRING dims: [ 1 ] random_data: true } } },
  { name: "file" batch_size: 1
    inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 2, 1 ] input_data_file: "x.bin" } }
    inputs { key: "S" value { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "s.bin" } } }
]
"""
WARM_CODE = """
class Model:
    def __init__(self): self.seen = []
    def predict(self, X, S=None):
        text = f"{X.shape}:{X.sum():g}:{'' if S is None else S[0, 0].decode()}"
        if X.max() > 100: text = "|".join(self.seen)
        self.seen.append(text if 0 in (X.sum(), ) or X.max() > 1 else text.split(":")[0])
        return {"SEEN": np.full((len(X), 1), text.encode(), object)}
"""
MODELS = {
    "segments": (SEGMENTS, SEGMENTS_CODE),
    "words": (WORDS, WORDS_CODE),
    "maybe": (MAYBE, MAYBE_CODE),
    "shaped": (SHAPED, SHAPED_CODE),
    "warm": (WARM, WARM_CODE),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with all of them."""
    root = tmp_path_factory.mktemp("ragged")
    for name, (config, code) in MODELS.items():
        write(root, name, config, code)
    (root / "warm" / "warmup").mkdir()
    (root / "warm" / "warmup" / "x.bin").write_bytes(np.array([5, 6], np.float32).tobytes())
    (root / "warm" / "warmup" / "s.bin").write_bytes(b"\2\0\0\0hi")
    with ServerThread(options([root])) as made:
        yield made


def write(root: Path, name: str, config: str, code: str) -> None:
    """A model's folder."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(f'backend: "python"\n{config}\n{CPU}\n')
    (root / name / "1" / "model.py").write_text(f"import numpy as np\n{code}")


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def inputs(arrays: Mapping[str, Any]) -> list[Any]:
    """The inputs of a request."""
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), from_numpy(array.dtype).value)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def together(client: Any, model: str, *requests: Mapping[str, Any]) -> list[Any]:
    """The results of requests that are all in flight at once, in their order."""
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number, arrays in enumerate(requests):
        client.async_infer(
            model,
            inputs(arrays),
            lambda result, error, number=number: answers.put((number, result, error)),
        )
    found = [answers.get(timeout=30) for _ in requests]
    assert [error for _, _, error in found if error is not None] == []
    return [result for _, result, _ in sorted(found, key=lambda one: one[0])]


def executions(client: Any, model: str) -> tuple[int, int]:
    """Rows and executions so far."""
    stats = client.get_inference_statistics(model).model_stats[0]
    return stats.inference_count, stats.execution_count


def x(length: int) -> dict[str, Any]:
    """One row of so many pairs."""
    return {"X": np.arange(2 * length, dtype=np.float32).reshape(1, length, 2)}


def test_requests_of_any_shape_are_one_execution(client: Any) -> None:
    """Each gets its own shape back, and the model was told of all of them; also when repeated."""
    lengths, before = (3, 1, 4), executions(client, "segments")

    for _ in range(2):
        results = together(client, "segments", *map(x, lengths))
        told = {tuple(result.as_numpy("TOLD")[0].tolist()) for result in results}
        for length, result in zip(lengths, results, strict=True):
            np.testing.assert_array_equal(result.as_numpy("Y"), x(length)["X"] * 2)
        # 3 requests of 16 elements, the largest of 8; of each its count, its end, its shape.
        assert {one[:3] for one in told} == {(3.0, 16.0, 8.0)}
        assert {(one[3], *one[5:]) for one in told} == {(6, 3, 2), (2, 1, 2), (8, 4, 2)}
        assert max(one[4] for one in told) == 16

    rows, number = executions(client, "segments")
    assert (rows - before[0], number - before[1]) == (6, 2)


def test_words_are_joined_and_cut_too(client: Any) -> None:
    """Strings have no buffer to copy, and come back all the same."""
    sent = [{"X": np.array([words], object)} for words in ([b"a"], [b"b", b"", b"c"], [b"dd"] * 2)]

    results = together(client, "words", *sent)

    assert [result.as_numpy("Y").tolist() for result in results] == [
        [[b"A"]],
        [[b"B", b"", b"C"]],
        [[b"DD", b"DD"]],
    ]


def test_what_tells_of_the_batch_is_not_in_the_metadata(client: Any) -> None:
    """Clients see what they send; the configuration says the rest as it was written."""
    metadata = client.get_model_metadata("segments")
    config = client.get_model_config("segments").config

    assert [(tensor.name, list(tensor.shape)) for tensor in metadata.inputs] == [("X", [-1, -1, 2])]
    assert list(config.batch_input[1].target_name) == ["ENDS", "SAME"]
    assert config.input[0].allow_ragged_batch
    with pytest.raises(InferenceServerException, match="unexpected inference input 'COUNT'"):
        client.infer("segments", inputs({**x(1), "COUNT": np.zeros((1, 1), np.float32)}))


def test_optional_inputs_are_grouped_by_who_has_them(client: Any) -> None:
    """The same set of inputs is one batch; what is missing is the default."""
    one = {"X": np.ones((1, 2), np.float32)}
    scaled = {**one, "SCALE": np.full((1, 1), 2, np.float32)}
    both = {**scaled, "SHIFT": np.ones((1, 1), np.float32)}

    first = together(client, "maybe", one, one, one)
    mixed = [*together(client, "maybe", *[scaled] * 3), *together(client, "maybe", *[both] * 3)]

    assert {tuple(r.as_numpy("Y")[0]) for r in first} == {(3, 3)}
    assert [r.as_numpy("Y")[0, 0] for r in mixed] == [2, 2, 2, 3, 3, 3]
    assert {int(r.as_numpy("ROWS")[0, 0]) for r in (*first, *mixed)} == {3}
    assert [i.optional for i in client.get_model_config("maybe").config.input] == [
        False,
        True,
        True,
    ]


def test_who_leaves_out_too_much_is_told_what_is_missing(client: Any) -> None:
    """Triton's text for models with optional inputs."""
    with pytest.raises(InferenceServerException) as refused:
        client.infer("maybe", inputs({"SHIFT": np.ones((1, 1), np.float32)}))

    assert (
        "expected number of inputs between 1 and 3 but got 1 inputs for model 'maybe'. Got input(s)"
        " ['SHIFT'], but missing required input(s) ['X']." in str(refused.value)
    )


def test_shape_tensors_go_with_their_equals_and_come_back_whole(client: Any) -> None:
    """One content for the whole batch, without a row for each; others wait for their turn."""
    row = {"X": np.ones((1, 1), np.float32)}

    def sized(*size: int) -> dict[str, Any]:
        return {"SIZE": np.array(size, np.int32), **row}

    same = together(client, "shaped", *[sized(2, 3)] * 3)
    again = together(client, "shaped", *[sized(2, 2)] * 3)

    assert [r.as_numpy("Y").shape for r in same] == [(1, 2, 3)] * 3
    assert [r.as_numpy("GOT").tolist() for r in same] == [[3, 2, 3]] * 3
    assert [r.as_numpy("GOT").tolist() for r in again] == [[3, 2, 2]] * 3
    metadata = client.get_model_metadata("shaped")
    assert [list(tensor.shape) for tensor in metadata.inputs] == [[2], [-1, 1]]


def test_a_model_has_been_warmed_as_it_will_be_asked(client: Any) -> None:
    """Every sample was executed, in the model's own shapes, and none of them was counted."""
    asked = {"X": np.full((1, 2, 1), 1000, np.float32)}

    before = executions(client, "warm")
    seen = client.infer("warm", inputs(asked)).as_numpy("SEEN")[0, 0].decode()

    assert before == (0, 0)
    assert seen.split("|") == [
        "(2, 2, 1, 3):0:",
        "(2, 2, 1, 3):0:",
        "(1, 2, 1, 1)",
        "(1, 2, 1, 1):11:hi",
    ]


def test_metrics_count_ragged_batches_as_any(running: Running, client: Any) -> None:
    """Rows and executions, as the statistics say them."""
    together(client, "segments", *map(x, (1, 2, 3)))
    rows, number = executions(client, "segments")

    url = f"http://127.0.0.1:{running.metrics_port}/metrics"
    text = urllib.request.urlopen(url).read().decode()

    assert f'nv_inference_count{{model="segments",version="1"}} {rows}\n' in text
    assert f'nv_inference_exec_count{{model="segments",version="1"}} {number}\n' in text
