"""What a folder says of an encoder, by its names and its JSON files: no weight is read here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.llm.encoder_folders import (
    as_sentences,
    copied,
    edit_json,
    source_of,
    write_encoder,
    write_json,
)

from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, PenstockError, Unsupported
from penstock_runtime.llm.encoders.folder import recognise
from penstock_runtime.llm.encoders.spec import labels_of, read_spec
from penstock_runtime.llm.encoders.task import task_of
from penstock_runtime.repository.index import ModelFolder, read_folder, scan


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head."""
    return write_encoder(tmp_path_factory.mktemp("hub") / "plain")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return copied(plain, tmp_path / "m")


@pytest.mark.parametrize(
    ("said", "task"),
    [
        ({"architectures": ["BertModel"]}, "embed"),
        ({"architectures": ["XLMRobertaForMaskedLM"]}, "embed"),
        ({"architectures": ["T5EncoderModel"]}, "embed"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "generate"),
        ({"architectures": ["GPT2LMHeadModel"]}, "generate"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}}, "rerank"),
        ({"architectures": ["BertForSequenceClassification"]}, "classify"),
    ],
)
def test_the_architecture_tells_the_task(said: Mapping[str, Any], task: str) -> None:
    """One label is a score; transformers leaves out two labels, since those are usual."""
    assert task_of(said) == task


def test_a_decoder_of_sentence_transformers_makes_embeddings() -> None:
    """Its architecture alone would generate."""
    assert task_of({"architectures": ["Qwen3ForCausalLM"]}, sentences=True) == "embed"


def test_an_architecture_for_something_else_is_refused_by_name() -> None:
    """With what is expected."""
    with pytest.raises(Unsupported, match=r"BertForTokenClassification.*ForSequenceClassification"):
        task_of({"architectures": ["BertForTokenClassification"]})


def test_a_folder_is_recognised_by_its_names(folder: Path) -> None:
    """In a version directory or as the model's own folder, without a configuration."""
    assert recognise(source_of(folder))
    assert default_registry().find(source_of(folder)).name == "llm"
    (folder / "config.json").unlink()
    assert not recognise(source_of(folder))


@pytest.mark.parametrize(
    ("file", "backend"),
    [("model.py", "pytorch"), ("model.onnx", "onnxruntime"), ("model.pt", "pytorch")],
)
def test_folders_of_other_backends_stay_theirs(folder: Path, file: str, backend: str) -> None:
    """Whatever Hugging Face's files lie beside."""
    (folder / file).write_bytes(b"")

    assert default_registry().find(source_of(folder)).name == backend


def index_of(root: Path, name: str) -> ModelFolder:
    return read_folder(root, root / name, name)


def test_a_folder_of_the_hub_is_version_1_and_its_config_json_no_configuration(
    folder: Path,
) -> None:
    """A config.pbtxt beside is; a change of the config.json is one of the model."""
    found = index_of(folder.parent, "m")

    assert (found.flat, found.versions, found.config_path) == (True, (1,), None)
    assert "m" in scan(folder.parent)
    before = found.version_signature(1)
    edit_json(folder / "config.json", layer_norm_eps=1e-6)
    (folder / "config.pbtxt").write_text("")
    after = index_of(folder.parent, "m")
    assert after.config_path == folder / "config.pbtxt"
    assert after.version_signature(1) != before


def test_a_config_json_of_penstock_stays_one(tmp_path: Path) -> None:
    """Beside version directories, or beside a model.py."""
    write_json(tmp_path / "a" / "config.json", {})
    (tmp_path / "a" / "1").mkdir()
    write_json(tmp_path / "b" / "config.json", {})
    for name in ("model.py", "model.safetensors"):
        (tmp_path / "b" / name).write_text("")

    for name in ("a", "b"):
        assert index_of(tmp_path, name).config_path == tmp_path / name / "config.json"


def test_the_configuration_is_completed(folder: Path) -> None:
    """Tensors by the task, and batches of whatever waits."""
    config = default_registry().find(source_of(folder)).complete(source_of(folder))

    assert config.backend == "llm"
    assert config.max_batch_size == 64
    tensors: tuple[ModelInput | ModelOutput, ...] = (*config.input, *config.output)
    assert [(t.name, t.data_type, t.dims) for t in tensors] == [
        ("text_input", DataType.BYTES, (1,)),
        ("embedding", DataType.FP32, (32,)),
        ("num_input_tokens", DataType.UINT32, (1,)),
    ]
    assert config.dynamic_batching == DynamicBatching()


def test_other_tensors_than_the_models_are_refused(folder: Path) -> None:
    """The refusal lists those that it has."""
    source = source_of(folder)
    declared = ModelInput("text", DataType.BYTES, (1,))
    wrong = source.config.__class__(name="m", input=(declared,))

    with pytest.raises(InvalidArgument, match=r"input 'text' .*text_input BYTES\[1\]"):
        default_registry().find(source).complete(source.__class__(wrong, 1, folder, folder))


def test_the_shortest_limit_of_a_text_counts(folder: Path) -> None:
    """Positions, what the tokenizer and sentence-transformers say, the configuration's own."""
    assert read_spec(source_of(folder)).max_tokens == 24
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True})
    assert read_spec(source_of(folder)).max_tokens == 20
    assert read_spec(source_of(folder)).lower_case
    edit_json(folder / "config.json", model_type="roberta", max_position_embeddings=12)
    assert read_spec(source_of(folder)).max_tokens == 11
    assert read_spec(source_of(folder, max_model_len="5")).max_tokens == 5
    with pytest.raises(InvalidArgument, match=r"max_model_len is 99.* 11 tokens at most"):
        read_spec(source_of(folder, max_model_len="99"))


def test_what_classes_are_called_stands_in_the_config_json(folder: Path) -> None:
    """For classifiers alone."""
    assert labels_of(source_of(folder)) == ()
    edit_json(
        folder / "config.json",
        architectures=["BertForSequenceClassification"],
        id2label={"1": "good", "0": "bad", "2": "dull"},
    )
    assert labels_of(source_of(folder)) == (b"bad", b"good", b"dull")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = {"weight_map": {"a": "../secret.safetensors"}}
    write_json(folder / "model.safetensors.index.json", shards)


def _pooled(folder: Path) -> None:
    as_sentences(folder, "middle")


def _led_out(folder: Path) -> None:
    as_sentences(folder)
    module = {"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "../secret"}
    write_json(folder / "modules.json", module)


BROKEN: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (_pickled, r"pytorch_model.bin is a pickle.* convert it to model.safetensors"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"model.safetensors is missing, there is only config.json",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        r"tokenizer.json is missing.*save_pretrained",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), r"config.json is no JSON"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), r"config.json is no JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config.json holds no JSON object"),
    "shards elsewhere": (_sharded, r"secret.safetensors' is not the name of a file"),
    "pooling elsewhere": (_led_out, r"'../secret/config.json' leads out of its folder"),
    "a pooling": (_pooled, r"1_Pooling/config.json has the pooling 'middle', expected mean"),
    "a module": (lambda f: as_sentences(f, "mean", "CNN"), r"modules.json has 'CNN' as module 2"),
    "quantised": (
        lambda f: edit_json(f / "config.json", quantization_config={"bits": 4}),
        r"config.json has a quantization_config",
    ),
    "no size": (
        lambda f: edit_json(f / "config.json", hidden_size=None),
        r"config.json has no hidden_size",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused_by_the_names_of_its_files(folder: Path, kind: str) -> None:
    """Nothing of where it lies is told."""
    spoil, text = BROKEN[kind]
    spoil(folder)

    source = source_of(folder)
    with pytest.raises(PenstockError, match=text) as refused:
        default_registry().find(source).complete(source)

    assert str(folder.parent) not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("dtype", "int3", "parameter dtype is 'int3', expected one of auto, float32"),
        ("pooling", "middle", "parameter pooling is 'middle', expected auto or one of mean"),
        ("normalize", "perhaps", "parameter normalize is 'perhaps', expected true or false"),
        ("prompts", "query", "parameter prompts is 'query', expected JSON"),
        ("default_prompt_name", "x", "default_prompt_name is 'x', there are the prompts none"),
        ("task", "sing", "task is 'sing', expected auto or one of generate"),
        ("call_tokens", "-1", "parameter call_tokens is '-1', expected an integer from 0"),
    ],
)
def test_a_parameter_that_is_no_good_is_named(
    folder: Path, name: str, value: str, text: str
) -> None:
    """With its value and what was expected."""
    source = source_of(folder, **{name: value})

    with pytest.raises(InvalidArgument, match=text):
        default_registry().find(source).complete(source)
