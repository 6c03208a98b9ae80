"""The models of the demo repository give exact answers, and its builder never leaves half a one."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import build_repository
from tests.e2e.direct import opened

TEXTS = [
    "A man is eating food.",
    "",
    "The girl is carrying a baby; her brother watches, and nobody says a word about it.",
    "Ünïcode, 漢字, \N{PILE OF POO} and tabs\t too",
    "word " * 400,
]


def test_add_sub_gives_sums_and_differences(demo_repository: Path) -> None:
    """Every row gets its own sum and difference."""
    first = np.arange(48, dtype=np.int32).reshape(3, 16)
    second = np.full((3, 16), 5, np.int32)

    with opened(demo_repository / "add_sub") as add_sub:
        outputs = add_sub(INPUT0=first, INPUT1=second)

    np.testing.assert_array_equal(outputs["OUTPUT0"], first + second)
    np.testing.assert_array_equal(outputs["OUTPUT1"], first - second)


@pytest.mark.parametrize("shape", [(1, 16), (3, 5), (0, 4)])
def test_echo_gives_back_any_matrix(demo_repository: Path, shape: tuple[int, int]) -> None:
    """What comes out is what went in."""
    matrix = np.random.default_rng(0).random(shape, dtype=np.float32)

    with opened(demo_repository / "echo") as echo:
        outputs = echo(INPUT0=matrix)

    np.testing.assert_array_equal(outputs["OUTPUT0"], matrix)


def test_repeat_answers_once_for_each_element(demo_repository: Path) -> None:
    """The stream has the elements in order, each with its index."""
    values = np.array([4, 2, 0, 1], np.int32)

    with opened(demo_repository / "repeat") as repeat:
        responses = repeat.responses(
            IN=values, DELAY=np.zeros(4, np.uint32), WAIT=np.zeros(1, np.uint32)
        )

    assert repeat.config.decoupled
    assert [int(response["OUT"][0]) for response in responses] == [4, 2, 0, 1]
    assert [int(response["IDX"][0]) for response in responses] == [0, 1, 2, 3]


def test_digits_knows_the_images_that_were_held_out(demo_repository: Path) -> None:
    """At least 97 % of what training never saw is classified correctly."""
    with np.load(demo_repository / "demo_digits.npz") as held_out:
        images, labels = held_out["images"], held_out["labels"]

    with opened(demo_repository / "digits") as digits:
        outputs = digits(IMAGE=images)

    assert len(images) == build_repository.HELD_OUT_IMAGES
    assert (outputs["CLASS"][:, 0] == labels).mean() >= 0.97
    np.testing.assert_array_equal(outputs["PROBABILITIES"].argmax(axis=1), outputs["CLASS"][:, 0])
    np.testing.assert_allclose(outputs["PROBABILITIES"].sum(axis=1), 1, rtol=1e-5)


def test_digits_names_its_classes(demo_repository: Path) -> None:
    """Each class has a line in the labels that the configuration points to."""
    with opened(demo_repository / "digits") as digits:
        declared = digits.config.find_output("PROBABILITIES")

    assert declared is not None
    names = (demo_repository / "digits" / declared.label_filename).read_text().splitlines()
    assert names == list(build_repository.DIGIT_NAMES)


def test_minilm_does_not_depend_on_its_batch(demo_repository: Path) -> None:
    """A text has the same vector, of length 1, alone and among others."""
    with opened(demo_repository / "minilm") as minilm:
        together = _embed(minilm, TEXTS)
        alone = np.concatenate([_embed(minilm, [text]) for text in TEXTS])

    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_minilm_finds_what_is_meant(demo_repository: Path) -> None:
    """Of several sentences, the one that means the same is the nearest."""
    sentences = ["How do I bake bread?", "The dog sleeps.", "Shares fell sharply today."]

    with opened(demo_repository / "minilm") as minilm:
        known = _embed(minilm, sentences)
        asked = _embed(minilm, ["The stock market crashed", "A puppy takes a nap"])

    assert (asked @ known.T).argmax(axis=1).tolist() == [2, 1]


@pytest.mark.filterwarnings("ignore")
def test_minilm_equals_the_reference(
    demo_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' BertModel, padded and masked, gives the same vectors within 1e-5."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    expected = _reference(transformers)

    with opened(demo_repository / "minilm") as minilm:
        found = _embed(minilm, TEXTS)

    np.testing.assert_allclose(found, expected, atol=1e-5)


def _embed(minilm: Any, texts: list[str]) -> Any:
    column = np.array([[text.encode()] for text in texts], dtype=object)
    return minilm(TEXT=column)["EMBEDDING"]


def _reference(transformers: Any) -> Any:
    import torch
    from tokenizers import Tokenizer

    folder = build_repository.minilm_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    encoded = [tokenizer.encode(text) for text in TEXTS]
    longest = max(len(e.ids) for e in encoded)
    ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in encoded])
    mask = torch.tensor([e.attention_mask + [0] * (longest - len(e.ids)) for e in encoded])
    network = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).numpy()


# -- the builder -----------------------------------------------------------------------------------


def test_a_repository_that_is_up_to_date_is_left_alone(demo_repository: Path) -> None:
    """Building twice builds once."""
    before = os.stat(demo_repository).st_ino

    built = build_repository.build(demo_repository, stream=io.StringIO())

    assert not built
    assert os.stat(demo_repository).st_ino == before


def test_a_build_that_fails_leaves_the_old_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a broken build is seen, nor left behind."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "kept").write_text("old")

    def fail(folder: Path, advance: Any) -> None:
        raise OSError("no space left on device")

    broken = build_repository.Step("a step that fails", 1.0, fail)
    monkeypatch.setattr(build_repository, "STEPS", (build_repository.STEPS[0], broken))

    with pytest.raises(OSError, match="no space"):
        build_repository.build(repository, stream=io.StringIO())

    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert (repository / "kept").read_text() == "old"


def test_a_build_tells_each_step_on_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no terminal, a log shows what was done."""
    monkeypatch.setattr(build_repository, "STEPS", build_repository.STEPS[:2])
    told = io.StringIO()

    build_repository.build(tmp_path / "repository", stream=told)

    assert told.getvalue().splitlines() == [step.label for step in build_repository.STEPS]


def test_the_language_model_is_made_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that has it will do for those who did not ask; one that has not is made anew."""

    def make(folder: Path, advance: Any) -> None:
        (folder / "tiny_llm").mkdir()
        advance(1.0)

    monkeypatch.setattr(build_repository, "STEPS", build_repository.STEPS[:1])
    steps = (build_repository.Step("a language model", 1.0, make),)
    monkeypatch.setattr(build_repository, "LLM_STEPS", steps)
    repository, quiet = tmp_path / "repository", io.StringIO()

    built = [
        build_repository.build(repository, llm=llm, stream=quiet)
        for llm in (False, False, True, True, False)
    ]

    assert built == [True, False, True, False, False]
    assert (repository / "tiny_llm").is_dir()


def test_a_training_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a process of its own, whose last word is passed on."""
    monkeypatch.setattr(build_repository, "LLM_ENVIRONMENT", {"PYTHONPATH": str(tmp_path)})
    (tmp_path / "torch.py").write_text("raise SystemExit('no torch today')")

    with pytest.raises(RuntimeError, match="no torch today"):
        build_repository.train_llm(tmp_path, lambda by: None)
