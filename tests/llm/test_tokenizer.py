"""A tokenizer from the files of a model: the same tokens as transformers, or a refusal by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.llm.text_fixtures import (
    MULTIBYTE,
    byte_fallback,
    byte_fallback_backend,
    byte_level,
    byte_level_backend,
    pieces,
    save,
)
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models
from transformers import AutoTokenizer

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["def f(x):\n    return x", MULTIBYTE, "", " a <|im_start|>user</s>", "<tool call> 1"]


@pytest.mark.parametrize(
    ("bos", "settings"),
    [
        (False, {}),
        (True, {}),
        (True, {"add_bos_token": False}),
        (True, {"eos_token": "<think>"}),
        (False, {"add_bos_token": True, "add_eos_token": True}),
        (False, {"added_tokens_decoder": {"1026": {"content": "<new>", "special": True}}}),
    ],
)
def test_its_tokens_and_texts_are_those_of_transformers(
    tmp_path: Path, bos: bool, settings: dict[str, Any]
) -> None:
    save(tmp_path, byte_level_backend(), bos, **settings)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)

    ours = load_tokenizer(tmp_path)

    for text in [*TEXTS, "x<new>"]:
        tokens = ours.encode(text)
        assert tokens == theirs.encode(text)
        assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
        assert ours.decode(tokens, False) == theirs.decode(tokens)
    assert ours.vocab_size == len(theirs)
    assert ours.bos_token_id == theirs.bos_token_id


def test_the_ends_of_a_sequence_are_those_of_the_generation_config(tmp_path: Path) -> None:
    save(tmp_path, byte_level_backend())
    assert load_tokenizer(tmp_path).eos_token_ids == (1,)

    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert load_tokenizer(tmp_path).eos_token_ids == (5,)

    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 1]}')
    assert load_tokenizer(tmp_path).eos_token_ids == (3, 1)


def test_a_chat_template_in_a_file_goes_before_that_in_the_settings(tmp_path: Path) -> None:
    save(tmp_path, byte_level_backend(), chat_template="of the settings")
    assert load_tokenizer(tmp_path).chat_template == "of the settings"

    (tmp_path / "chat_template.jinja").write_text("of the file")
    assert load_tokenizer(tmp_path).chat_template == "of the file"


def test_named_chat_templates_are_kept_by_their_names(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    save(tmp_path, byte_level_backend(), chat_template=named)

    assert load_tokenizer(tmp_path).chat_templates == {"default": "a", "tool_use": "b"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", "{", "tokenizer.json is broken"),
        ("tokenizer.json", "{}", "tokenizer.json is broken"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is no JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a list"),
        ("generation_config.json", b"\xff", "generation_config.json is not UTF-8 at byte 0"),
    ],
)
def test_a_broken_file_is_refused_by_its_name_and_without_its_path(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    save(tmp_path, byte_level_backend())
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(InvalidArgument, match=problem) as refused:
        load_tokenizer(tmp_path)

    assert str(tmp_path) not in refused.value.message


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)


def test_older_files_are_read_by_transformers(tmp_path: Path) -> None:
    backend = byte_level_backend()
    document = json.loads(backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(document["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in document["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": "<s>",'
        ' "unk_token": "<s>"}'
    )

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.encode("def f(x)") == byte_level().encode("def f(x)")


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_the_bytes_of_tokens_put_together_are_the_text(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()

    tokens = tokenizer.encode(MULTIBYTE, special=False)

    raw = b"".join(tokenizer.token_bytes(token) for token in tokens)
    assert raw.decode().lstrip(" ") == MULTIBYTE


def test_tokens_that_are_not_in_the_vocabulary_have_no_text() -> None:
    tokenizer = byte_level()

    assert tokenizer.token_bytes(-1) == tokenizer.token_bytes(10**6) == b""
    assert tokenizer.decode([-1, 10**6, 1 << 40]) == ""


def test_part_of_a_character_is_shown_as_one_that_is_unknown() -> None:
    tokenizer = byte_level()

    assert tokenizer.token_text(pieces(tokenizer, "ð")[0]) == "\ufffd"


def test_a_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="lone surrogate at character 1"):
        byte_level().encode("a\ud800")


def test_a_text_that_the_vocabulary_cannot_say_is_refused() -> None:
    tokenizer = Tokenizer(Backend(models.WordLevel({"x": 0, "y": 1})))

    with pytest.raises(InvalidArgument, match=r"cannot be encoded: .*UNK"):
        tokenizer.encode("z")


def test_a_text_that_is_surely_too_long_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(InvalidArgument, match="expected at most 100 tokens"):
        byte_level().encode("🙂" * 10_000_000, limit=100)


def test_padding_and_truncation_of_the_file_are_left_out(tmp_path: Path) -> None:
    backend = Backend.from_str(byte_fallback_backend().to_str())
    backend.decoder = decoders.Fuse()
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))

    assert 2 < len(load_tokenizer(tmp_path).encode("a b c d e f")) < 64
