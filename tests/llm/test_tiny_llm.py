"""The demo's language model: how it is made, and the one beside this that was made so."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from examples import tiny_llm, tiny_text
from transformers import AutoModelForCausalLM, AutoTokenizer

TRAINED = Path(__file__).resolve().parent / "tiny_llm"


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """The committed model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(TRAINED)


def _answer(trained: tuple[Any, Any], question: str) -> str:
    model, tokenizer = trained
    asked = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    prompt = ids["input_ids"]
    out = model.generate(prompt, max_new_tokens=48, do_sample=False)
    return str(tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)).strip()


def test_a_training_leaves_a_folder_that_transformers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its shape, its tokens and its chat template, and told of in shares that make up one."""
    monkeypatch.setattr(tiny_text, "sources", lambda: [tiny_text.held_out()])
    monkeypatch.setattr(tiny_text, "topics", list)
    shares: list[float] = []
    settings = tiny_llm.Settings(vocab=512, hidden=32, layers=1, intermediate=64, steps=3, batch=2)

    report = tiny_llm.train(tmp_path, settings, shares.append)

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    asked = [{"role": "user", "content": "Hi"}]
    assert report.steps == 3
    assert sum(each.numel() for each in model.parameters()) == report.parameters
    assert len(tokenizer) == model.config.vocab_size == 512
    assert tokenizer.decode(tokenizer("été\n\tx = 10")["input_ids"]) == "été\n\tx = 10"
    assert (
        tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert sum(shares) == pytest.approx(1.0)


def test_a_training_ends_with_its_steps_or_with_its_time() -> None:
    """However slow the machine is; what was spent before counts, and the rate falls to nothing."""
    now = 10.0
    clock = tiny_llm.Clock(tiny_llm.Settings(steps=100, cpu_seconds=40), 4.0, lambda: now)

    clock.step = 50
    half = clock.share, clock.rate
    now += 0.75 * (0.95 * 40 - 6)
    later = clock.share, clock.rate
    clock.step = 100

    assert half == (0.5, 0.5)
    assert later == pytest.approx((0.75, 0.25))
    assert (clock.share, clock.rate) == (1.0, 0.0)


def test_the_committed_model_is_small_and_knows_its_text(trained: tuple[Any, Any]) -> None:
    """About a megabyte, and far better on files it never saw than counting tokens would be."""
    model, tokenizer = trained
    tokens = tokenizer(tiny_text.held_out())["input_ids"]

    loss = tiny_llm.held_out_loss(model, tokens)

    assert sum(file.stat().st_size for file in TRAINED.iterdir()) < 1.2e6
    assert loss < tiny_llm.unigram_loss(tokens) - 1.5


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("what does len do?", "number of items"),
        ("what does os.path.join do?", "Join two or more pathname components"),
    ],
)
def test_the_committed_model_answers(question: str, said: str, trained: tuple[Any, Any]) -> None:
    """Through its chat template, and ends by itself."""
    assert said in _answer(trained, question)


def test_a_first_sentence_is_one_line() -> None:
    """Without the signature that some docstrings begin with."""
    assert tiny_text.first_sentence("f(x) -> y\n\nReturn the sine\nof x. More.") == (
        "Return the sine of x."
    )
    assert tiny_text.first_sentence("Short.") == ""
    assert tiny_text.first_sentence("") == ""


def test_names_are_asked_for_in_several_ways() -> None:
    """And everyday ones are among them."""
    known = {each.name: each for each in tiny_text.answered()}

    assert {"len", "str.split", "os.path.join", "json.dumps"} <= set(known)
    assert "what does len do?" in known["len"].questions
    assert json.dumps(known["len"].answer).isascii()
