"""Encoders give what transformers and sentence-transformers give, whatever shares their batch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.llm.encoder_folders import (
    KINDS,
    LETTERS,
    LONGEST,
    SIZES,
    Many,
    as_sentences,
    column,
    copied,
    edit_json,
    instance,
    loaded,
    run,
    tokenizer,
    write_encoder,
    write_json,
)
from tests.runtime.model_folders import context

from penstock_runtime.backends.base import Executable, Placement
from penstock_runtime.errors import Internal, InvalidArgument, PenstockError
from penstock_runtime.llm.encoders.instance import EncoderExecutable

TEXTS = ["a", "abc de f", "hgf" * 12, "b c d e f g h a b c", "dead beef", "ab" * 30]
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folders by the kind of encoder, each written once."""
    root, known = tmp_path_factory.mktemp("hub"), dict[str, Path]()

    def made(kind: str) -> Path:
        if kind not in known:
            kind, _, labels = kind.partition(" ")
            head = "ForSequenceClassification" if labels else ""
            more: dict[str, Any] = {"num_labels": int(labels)} if labels else {}
            name = f"{kind} {labels}".strip()
            known[name] = write_encoder(root / name.replace(" ", "-"), kind, head, **more)
            return known[name]
        return known[kind]

    return made


@pytest.fixture(scope="module")
def bert(hub: Made) -> Executable:
    """An instance of a tiny BERT, pooled by the mean."""
    return instance(hub("bert"))


def encoder_of(made: Executable) -> Any:
    """The weights behind an instance."""
    return cast(EncoderExecutable, made)._encoder


def alone(folder: Path, texts: Sequence[str]) -> Any:
    """The mean over the last hidden state of transformers' own forward, text by text."""
    model = transformers.AutoModel.from_pretrained(folder)
    words = tokenizer()
    words.enable_truncation(LONGEST)
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([words.encode(text).ids])
            rows.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_is_the_mean_of_transformers_own_forward(hub: Made, kind: str) -> None:
    """For each architecture, in a batch of unlike lengths that is cut or padded."""
    want = alone(hub(kind), TEXTS)

    for call_tokens in ("1", "100000"):
        got = run(instance(hub(kind), call_tokens=call_tokens), *TEXTS)

        np.testing.assert_allclose(got["embedding"], want, atol=1e-5)
        assert got["num_input_tokens"].ravel().tolist() == [3, 8, 24, 12, 10, 24]


@given(st.lists(st.text(f"{LETTERS} ", max_size=40), min_size=1, max_size=8), st.randoms())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_a_text_gives_does_not_depend_on_its_batch(
    bert: Executable, texts: list[str], random: Any
) -> None:
    """Any texts, in any order."""
    want = {text: run(bert, text)["embedding"][0] for text in texts}
    random.shuffle(texts)

    got = run(bert, *texts)["embedding"]

    np.testing.assert_allclose(got, [want[text] for text in texts], atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "more"),
    [
        ("mean", ("Normalize",)),
        ("cls", ()),
        ("max", ()),
        ("lasttoken", ("Normalize",)),
        ("weightedmean", ()),
        ("mean_sqrt_len_tokens", ("Dense", "Normalize")),
    ],
)
def test_a_folder_of_sentence_transformers_gives_what_that_gives(
    hub: Made, tmp_path: Path, pooling: str, more: Sequence[str]
) -> None:
    """Pooling, dense layers, normalisation and prompts."""
    library = pytest.importorskip("sentence_transformers")
    folder = copied(hub("bert"), tmp_path / "m")
    as_sentences(folder, pooling, *more)
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "a b "}, "default_prompt_name": None},
    )
    if "Dense" in more:
        _write_dense(folder / "2_Dense")
    want = library.SentenceTransformer(str(folder), device="cpu")

    made = instance(folder)

    for prompt in (None, "query"):
        given = {} if prompt is None else {"prompt_name": prompt}
        got = run(made, *TEXTS, **given)["embedding"]
        expected = want.encode(TEXTS, prompt_name=prompt, show_progress_bar=False)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_decoder_makes_embeddings_of_its_last_token(hub: Made, tmp_path: Path) -> None:
    """Its head for words is left out; padding comes behind what it looks back on."""
    folder = copied(hub("bert"), tmp_path / "m")
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)).eval()
    model.save_pretrained(folder)
    as_sentences(folder, "lasttoken")
    words = tokenizer()
    words.enable_truncation(LONGEST)
    with torch.inference_mode():
        asked = [torch.tensor([words.encode(text).ids]) for text in TEXTS]
        want = torch.cat([model.model(ids).last_hidden_state[:, -1] for ids in asked])

    got = run(instance(folder, call_tokens="100000"), *TEXTS)["embedding"]

    np.testing.assert_allclose(got, want, atol=1e-5)


def _write_dense(place: Path) -> None:
    from safetensors.torch import save_file

    said = {"in_features": 32, "out_features": 8, "bias": True}
    write_json(place / "config.json", {**said, "activation_function": "torch.nn.Tanh"})
    weights = {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}
    save_file(weights, place / "model.safetensors")


def pair(made: Executable, *pairs: tuple[str, str], **parameters: Any) -> Any:
    """The scores of pairs of a query and a document."""
    inputs = {
        "query": column(*(query for query, _ in pairs)),
        "document": column(*(document for _, document in pairs)),
    }
    return made.execute(inputs, [Many(len(pairs), **parameters)])["score"]


PAIRS = [("a b", "c"), ("a", "b c d e f g" * 3), ("dead", "beef" * 20), ("h", "h")]


@pytest.mark.parametrize("told", [[], ["token_type_ids"]])
def test_a_reranker_gives_the_sigmoid_of_a_cross_encoder(
    hub: Made, tmp_path: Path, told: list[str]
) -> None:
    """Pairs of any lengths, with token types and without; raw scores come before the sigmoid."""
    folder = copied(hub("bert 1"), tmp_path / "m")
    names = ["input_ids", *told, "attention_mask"]
    edit_json(folder / "tokenizer_config.json", model_input_names=names)
    made = instance(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    queries, documents = zip(*PAIRS, strict=True)
    with torch.inference_mode():
        asked = fast(queries, documents, padding=True, truncation=True, return_tensors="pt")
        logits = model(**asked).logits

    np.testing.assert_allclose(pair(made, *PAIRS), logits.sigmoid(), atol=1e-5)
    np.testing.assert_allclose(pair(made, *PAIRS, raw_scores=True), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "parameters"),
    [
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, {}),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, {}),
        ({}, {"activation": "none"}),
    ],
)
def test_a_cross_encoder_that_was_saved_without_an_activation_has_none(
    hub: Made, tmp_path: Path, said: dict[str, Any], parameters: dict[str, str]
) -> None:
    """As do those whose configuration asks for none."""
    folder = copied(hub("bert 1"), tmp_path / "m")
    edit_json(folder / "config.json", **said)

    made = instance(folder, **parameters)

    np.testing.assert_array_equal(pair(made, *PAIRS), pair(made, *PAIRS, raw_scores=True))


@pytest.mark.parametrize(
    ("problem", "finish"),
    [
        (None, lambda logits: logits.softmax(1)),
        ("single_label_classification", lambda logits: logits.softmax(1)),
        ("multi_label_classification", lambda logits: logits.sigmoid()),
        ("regression", lambda logits: logits),
    ],
)
def test_a_classifier_scores_as_its_problem_type_says(
    hub: Made, tmp_path: Path, problem: str | None, finish: Callable[[Any], Any]
) -> None:
    """One of several labels unless it says otherwise."""
    folder = copied(hub("roberta 3"), tmp_path / "m")
    edit_json(folder / "config.json", problem_type=problem)
    made = instance(folder)

    logits = run(made, *TEXTS, raw_scores=True)["scores"]
    scores = run(made, *TEXTS)["scores"]

    assert scores.shape == (len(TEXTS), 3)
    np.testing.assert_allclose(scores, finish(torch.tensor(logits)), atol=1e-6)


def test_each_request_of_a_batch_is_treated_as_it_asks(hub: Made) -> None:
    """Prompts by name and as text, and normalisation, of several requests at once."""
    made = instance(
        hub("bert"), prompts='{"query": "ab ", "document": "cd "}', default_prompt_name="query"
    )
    requests = [
        Many(2),
        Many(1, prompt_name="document"),
        Many(1, input_type="passage"),
        Many(1, prompt="", normalize=True),
    ]

    got = made.execute({"text_input": column(*["e f"] * 5)}, requests)["embedding"]

    plain = instance(hub("bert"))
    want = run(plain, "ab e f", "ab e f", "cd e f", "cd e f", "e f")["embedding"]
    want[4] /= np.linalg.norm(want[4])
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"prompt_name": "x"}, "prompt_name is 'x', model 'm' has the prompts none"),
        ({"prompt": 3}, "parameter prompt is 3, expected a text"),
        ({"truncate": "no"}, "parameter truncate is 'no', expected true or false"),
        ({"truncate": False}, "text_input of model 'm' have more than 24 tokens"),
    ],
)
def test_a_request_that_asks_for_what_there_is_not_is_refused(
    bert: Executable, parameters: dict[str, Any], text: str
) -> None:
    """Also a text that is too long, where it is not to be cut."""
    with pytest.raises(InvalidArgument, match=text):
        run(bert, "a" * 99, **parameters)


def test_bytes_that_are_no_text_are_refused(bert: Executable) -> None:
    """With the place of the first that is not."""
    array = column("a")
    array[0, 0] = b"ab\xff"

    with pytest.raises(InvalidArgument, match="text_input is not UTF-8 at byte 2"):
        bert.execute({"text_input": array}, [context()])


@pytest.mark.parametrize("dtype", ["bfloat16", "fp16"])
def test_half_precision_is_near_and_takes_half_the_memory(hub: Made, dtype: str) -> None:
    """The memory that is told is that of the weights."""
    config, model = loaded(hub("bert"), dtype=dtype)
    full = run(instance(hub("bert")), *TEXTS)["embedding"]

    made = cast(Executable, model.executable(Placement("m_0")))
    held = model.memory_bytes()["cpu"]

    np.testing.assert_allclose(run(made, *TEXTS)["embedding"], full, atol=0.05)
    weights = (hub("bert") / "model.safetensors").stat().st_size
    assert config.name == "m"
    assert 0.3 * weights < held < 0.6 * weights


def test_instances_share_the_weights_and_a_closed_model_holds_nothing(hub: Made) -> None:
    """As long as it is open they are counted once."""
    _, model = loaded(hub("bert"))
    made = [cast(Executable, model.executable(Placement(f"m_{i}"))) for i in range(2)]

    first, second = (encoder_of(one) for one in made)
    assert first is second
    assert first.call_tokens >= 1
    for one in made:
        one.close()
    model.close()
    assert model.memory_bytes() == {}


def test_linear_layers_that_are_packed_give_the_same(hub: Made) -> None:
    """Where the processor has them; a configuration may ask for torch's own."""
    packed, plain = instance(hub("bert")), instance(hub("bert"), cpu_kernels="none")

    assert not encoder_of(plain).packed
    got, want = (run(one, *TEXTS)["embedding"] for one in (packed, plain))
    np.testing.assert_allclose(got, want, atol=1e-5)


def _short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-64])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_short, "model.safetensors has"),
        (lambda f: edit_json(f / "config.json", num_hidden_layers=4), "the weights lack"),
        (lambda f: edit_json(f / "config.json", intermediate_size=32), "config.json"),
        (lambda f: edit_json(f / "config.json", model_type="sphinx"), "model_type 'sphinx'"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is no tokenizer"),
    ],
)
def test_weights_that_do_not_fit_end_the_load(
    hub: Made, tmp_path: Path, spoil: Callable[[Path], object], text: str
) -> None:
    """The error names files and weights, and no folder."""
    folder = copied(hub("bert"), tmp_path / "m")
    spoil(folder)

    with pytest.raises(PenstockError, match=text) as refused:
        instance(folder)

    assert str(tmp_path) not in str(refused.value)


def test_numbers_that_overflow_are_an_error_and_no_answer(hub: Made) -> None:
    """float16 has no room for some encoders."""
    made = instance(hub("bert"), dtype="float16")
    with torch.inference_mode():
        encoder_of(made)._loaded.module.embeddings.LayerNorm.weight.fill_(torch.inf)

    with pytest.raises(Internal, match="parameter dtype bfloat16"):
        run(made, "a")
