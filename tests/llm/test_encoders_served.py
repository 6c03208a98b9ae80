"""Encoders behind a server's socket: folders of Hugging Face in a repository, batched and asked as
any other model is.
"""

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from examples.build_repository import MINILM_FILES, Missing, minilm_folder
from tests.e2e.running import Running, ServerThread, options
from tests.llm.encoder_folders import as_sentences, column, instance, run, write_encoder
from tritonclient.utils import InferenceServerException

EXAMPLE = Path(__file__).parents[2] / "examples" / "models" / "minilm" / "1" / "minilm.py"
LABELS = {"0": "bad", "1": "good", "2": "dull"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder as a folder of the hub, a reranker and a classifier in version directories."""
    root = tmp_path_factory.mktemp("encoders")
    as_sentences(write_encoder(root / "embedder"), "mean", "Normalize")
    head = "ForSequenceClassification"
    write_encoder(root / "reranker" / "1", "bert", head, num_labels=1)
    write_encoder(root / "classifier" / "1", "distilbert", head, num_labels=3, id2label=LABELS)
    for name in ("reranker", "classifier"):
        (root / name / "config.pbtxt").write_text('backend: "llm"')
    slow = root / "slow"
    write_encoder(slow)
    (slow / "config.pbtxt").write_text(
        "dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: 8 }"
        'parameters { key: "truncate" value { string_value: "false" } }'
    )
    broken = write_encoder(root / "broken")
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    return root


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[Running]:
    """A server with them."""
    with ServerThread(options([repository], model_control_mode="explicit")) as made:
        with triton.InferenceServerClient(made.target) as client:
            for name in ("embedder", "reranker", "classifier", "slow"):
                client.load_model(name)
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def texts(name: str, *values: str) -> Any:
    """An input of shape [rows, 1]."""
    tensor = triton.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(column(*values))
    return tensor


def test_a_folder_of_the_hub_makes_embeddings(client: Any, repository: Path) -> None:
    """What is answered is what the model gives; vectors have length 1."""
    found = client.infer("embedder", [texts("text_input", "a b", "dead beef")])

    want = run(instance(repository / "embedder"), "a b", "dead beef")
    np.testing.assert_allclose(found.as_numpy("embedding"), want["embedding"], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(want["embedding"], axis=1), 1, atol=1e-5)
    assert found.as_numpy("num_input_tokens").tolist() == [[4], [10]]


def test_requests_that_wait_share_a_batch(client: Any) -> None:
    """Short ones and long ones."""
    asked = ["a", "b c d e f g h", "ab", "ha" * 10, "c", "d", "e", "f g"]
    before = client.get_inference_statistics("slow", as_json=True)["model_stats"][0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda t: client.infer("slow", [texts("text_input", t)]), asked))

    after = client.get_inference_statistics("slow", as_json=True)["model_stats"][0]
    executions = int(after["execution_count"]) - int(before.get("execution_count", 0))
    together = client.infer("slow", [texts("text_input", *asked)]).as_numpy("embedding")
    assert executions < len(asked)
    got = np.concatenate([one.as_numpy("embedding") for one in found])
    np.testing.assert_allclose(got, together, atol=1e-5)


def test_one_text_that_is_refused_does_not_harm_those_beside_it(client: Any) -> None:
    """Each of the batch is answered for itself."""

    def ask(text: str) -> str:
        try:
            client.infer("slow", [texts("text_input", text)])
        except InferenceServerException as error:
            return str(error.status())
        return "OK"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, ["a", "a b " * 20, "c"]))

    assert found == ["OK", "StatusCode.INVALID_ARGUMENT", "OK"]


def test_a_reranker_scores_pairs(client: Any) -> None:
    """One score a pair, between 0 and 1."""
    inputs = [texts("query", "a", "a", "a"), texts("document", "b", "c d e", "f" * 30)]

    scores = client.infer("reranker", inputs).as_numpy("score")

    assert scores.shape == (3, 1)
    assert ((scores > 0) & (scores < 1)).all()


def test_classes_have_the_names_of_the_config_json(client: Any) -> None:
    """As the classification extension gives them, without a label file."""
    top = triton.InferRequestedOutput("scores", class_count=3)

    found = client.infer("classifier", [texts("text_input", "a b")], outputs=[top])

    named = [text.decode().split(":") for text in found.as_numpy("scores")[0]]
    assert {index: name for _, index, name in named} == LABELS
    assert sum(float(value) for value, _, _ in named) == pytest.approx(1, abs=1e-4)


def test_pickles_are_refused_with_what_to_do(client: Any) -> None:
    """The load fails, and the server goes on."""
    with pytest.raises(InferenceServerException, match=r"pytorch_model.bin is a pickle.*convert"):
        client.load_model("broken")

    assert client.is_model_ready("embedder")


def test_minilm_as_it_was_published_gives_what_the_hand_made_one_gives(tmp_path: Path) -> None:
    """The folder of the package, and the program of the examples."""
    pytest.importorskip("safetensors")
    try:
        folder = minilm_folder()
    except Missing as missing:
        pytest.skip(str(missing))
    for theirs, ours in MINILM_FILES.items():
        (tmp_path / ours).symlink_to(folder / theirs)
    asked = ["A penstock carries a river.", "Ein Rohr", "one long text about water " * 60, ""]

    got = run(instance(folder), *asked)["embedding"]

    want = _example().MiniLM(tmp_path).embed(asked).numpy()
    np.testing.assert_allclose(got, want, atol=2e-6)


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minilm", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
