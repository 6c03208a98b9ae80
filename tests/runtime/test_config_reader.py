"""Laws of reading a configuration: what is right comes back, what is wrong is named."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.config_strategies import configs

from penstock_runtime.config import ModelConfig, ModelInput, RateLimiterResource
from penstock_runtime.config_reader import config_to_dict, parse_json, parse_yaml, read_config
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

INPUT = {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 16]}


def refusal(data: Any) -> str:
    """The text of the error for a mapping that must be refused."""
    with pytest.raises(InvalidArgument) as caught:
        read_config(data)
    assert caught.value.violations
    return str(caught.value)


@given(configs())
def test_a_configuration_comes_back_from_its_mapping(config: ModelConfig) -> None:
    """Writing and reading again changes nothing, whether defaults are written or not."""
    short, full = config_to_dict(config), config_to_dict(config, full=True)

    assert read_config(short) == config
    assert read_config(full) == config


@given(configs())
def test_a_configuration_comes_back_from_json(config: ModelConfig) -> None:
    """The mapping is JSON, and its text says the same."""
    text = json.dumps(config_to_dict(config))

    assert parse_json(text) == config
    assert parse_json(text.encode()) == config


def test_a_configuration_comes_back_from_yaml() -> None:
    """YAML says the same as JSON."""
    config = read_config({"name": "m", "input": [INPUT], "parameters": {"k": {"stringValue": "v"}}})

    text = yaml.safe_dump(config_to_dict(config))

    assert parse_yaml(text) == config
    assert parse_yaml(text.encode()) == config


@pytest.mark.parametrize(
    "data",
    [
        {"max_batch_size": 8, "dynamic_batching": {"max_queue_delay_microseconds": 100}},
        {"maxBatchSize": 8, "dynamicBatching": {"maxQueueDelayMicroseconds": 100}},
        {"maxBatchSize": "8", "dynamic_batching": {"maxQueueDelayMicroseconds": "100"}},
        {"maxBatchSize": 8.0, "dynamic_batching": {"maxQueueDelayMicroseconds": 1e2}},
    ],
)
def test_names_and_integers_may_have_any_form_of_protobuf(data: Mapping[str, object]) -> None:
    """Camel case and snake case, numbers and decimal text are one."""
    config = read_config(data)

    assert config.max_batch_size == 8
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.max_queue_delay_microseconds == 100


@pytest.mark.parametrize(("kind", "data_type"), [("KIND_CPU", "TYPE_STRING"), (2, 13), ("2", "13")])
def test_enums_may_be_names_or_numbers(kind: object, data_type: object) -> None:
    """Protobuf's numbers stand for the names."""
    tensor = {"name": "x", "data_type": data_type, "dims": [1]}

    config = read_config({"instance_group": [{"kind": kind}], "input": [tensor]})

    assert config.instance_group[0].kind == "KIND_CPU"
    assert config.input == (ModelInput("x", DataType.BYTES, (1,)),)


def test_null_and_zero_are_a_field_that_is_not_set() -> None:
    """As in protobuf; a default that is not zero comes back."""
    group = {"name": "g", "count": 0, "gpus": None, "rate_limiter": {"resources": [{"count": 0}]}}

    config = read_config(
        {"name": None, "instance_group": [group], "version_policy": {"latest": {}}}
    )

    assert config.name == ""
    assert config.instance_group[0].count == 1
    assert config.version_policy is not None
    assert config.version_policy.latest is not None
    assert config.version_policy.latest.num_versions == 1


def test_an_empty_block_is_not_an_absent_one() -> None:
    """dynamic_batching {} switches batching on, reshape {} makes a scalar."""
    tensor = {**INPUT, "dims": [1], "reshape": {}}

    config = read_config({"dynamic_batching": {}, "input": [tensor]})

    assert config.dynamic_batching is not None
    assert config.input[0].reshape is not None
    assert config_to_dict(config)["dynamic_batching"] == {}


def test_words_of_python_keep_their_names_in_the_text() -> None:
    """`global` is read into global_ and written as global."""
    resource = {"name": "r", "global": True, "count": 2}

    config = read_config({"instance_group": [{"rate_limiter": {"resources": [resource]}}]})

    limiter = config.instance_group[0].rate_limiter
    assert limiter is not None
    assert limiter.resources == (RateLimiterResource("r", global_=True, count=2),)
    assert '"global": true' in json.dumps(config_to_dict(config))


def test_fields_that_only_others_act_on_are_kept() -> None:
    """They are checked, written in one form, and given back."""
    data = {"optimization": {"graph": {"level": "1"}, "inputPinnedMemory": {"enable": True}}}

    config = read_config({**data, "cc_model_filenames": {"8.0": "a.plan"}})

    expected = {"graph": {"level": 1}, "input_pinned_memory": {"enable": True}}
    assert config.extra == {"optimization": expected, "cc_model_filenames": {"8.0": "a.plan"}}
    assert config_to_dict(config) == dict(config.extra)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"input": [{**INPUT, "dims": [1, "x"]}]},
            'input[0].dims[1]: expected an integer, got "x"',
        ),
        ({"input": [{**INPUT, "optional": 1}]}, "input[0].optional: expected true or false, got 1"),
        ({"input": INPUT}, "input: expected a list, got an object"),
        ({"input": [3]}, "input[0]: expected an object, got 3"),
        ({"input": [{"name": "x"}]}, "input[0].data_type: is required"),
        ({"input": [{**INPUT, "name": ""}]}, "input[0].name: is required"),
        ({"max_batch_size": True}, "max_batch_size: expected an integer, got true"),
        ({"max_batch_size": 1.5}, "max_batch_size: expected an integer, got 1.5"),
        ({"name": 7}, "name: expected a string, got 7"),
        ({"name": "\ud800"}, "name: expected text of Unicode characters"),
        ({"parameters": {"k": "v"}}, 'parameters["k"]: expected an object, got "v"'),
        ({"metric_tags": {"a": 1}}, 'metric_tags["a"]: expected a string, got 1'),
        ({"ouput": []}, "ouput: unknown field, did you mean output?"),
        ({"input": [{**INPUT, "dim": []}]}, "input[0].dim: unknown field, did you mean dims?"),
        ({"extra": {}}, "extra: unknown field"),
        ({"optimization": {"graph": 1}}, "optimization.graph: expected an object, got 1"),
        ({"maxBatchSize": 1, "max_batch_size": 2}, "max_batch_size: given twice"),
        ({3: 4}, "[3]: unknown field"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(data: object, text: str) -> None:
    """An error says where, what was there and what was expected."""
    message = refusal(data)

    assert message.startswith(text)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"dynamic_batching": {"max_queue_delay_microseconds": -1}}, "0..18446744073709551615"),
        ({"max_batch_size": 2**31}, "-2147483648..2147483647, got 2147483648"),
        ({"max_batch_size": 10**5000}, "got a very large integer"),
        ({"instance_group": [{"kind": 4}]}, "KIND_PROCESS, got 4"),
        ({"instance_group": [{"kind": "kind_gpu"}]}, 'KIND_PROCESS, got "kind_gpu"'),
        ({"input": [{**INPUT, "data_type": "FP32"}]}, "did you mean TYPE_FP32?"),
        ({"input": [{**INPUT, "data_type": 15}]}, "TYPE_BF16, got 15"),
        (
            {"sequence_batching": {"direct": {"minimum_slot_utilization": 1e300}}},
            "expected a number of 32 bits",
        ),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(data: object, text: str) -> None:
    """What the message of the wire could not hold is refused where it is read."""
    message = refusal(data)

    assert text in message


def test_every_field_that_is_wrong_is_listed() -> None:
    """One answer names all of them, up to a bound."""
    with pytest.raises(InvalidArgument) as caught:
        read_config({"name": 1, "max_batch_size": "x", "input": [{}]})

    assert [violation.field for violation in caught.value.violations] == [
        "name",
        "max_batch_size",
        "input[0].name",
        "input[0].data_type",
    ]
    assert len(refusal({f"unknown{i}": i for i in range(100_000)})) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"name": "a", "name": "b"}', 'gives the key "name" twice'),
        (b'{"parameters": {"a": {}, "a": {}}}', 'gives the key "a" twice'),
        (b'{"name": "a"', "line 1, column 13"),
        (b'{"max_batch_size": NaN}', 'write "NaN" in quotes'),
        (b'{"max_batch_size": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"name": "\xff"}', "is not UTF-8: byte 0xff at offset 10"),
        (b"[" * 250_000, "nests deeper than 100 levels"),
        (b'{"a":' * 250_000, "nests deeper than 100 levels"),
        (b" " * (64 << 20), "67108864 bytes is too large"),
        (b'"' + b'\\"' * 1_000_000, "is not valid JSON"),
        (b"[]", "expected an object, got a list"),
        (b"", "line 1, column 1"),
    ],
)
def test_hostile_json_is_refused_before_it_is_built(text: bytes, message: str) -> None:
    """Size, depth and keys are looked at in linear time."""
    with pytest.raises(InvalidArgument, match=message.replace("[", r"\[")):
        parse_json(text)


def test_brackets_in_text_do_not_nest() -> None:
    """Only the structure is counted."""
    config = parse_json(json.dumps({"name": "[" * 1000 + '\\"{'}))

    assert config.name.startswith("[[[")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("name: !!python/object:os.system x", "tags of YAML"),
        ("name: a\nname: b", 'the key "name" twice'),
        ("[" * 200, "nests deeper than 100 levels"),
        ("- " * 60_000, "nests deeper than 100 levels"),
        ("name: [", "line 2, column 1"),
        ("? [a]\n: b", "unhashable"),
        ("max_batch_size: 1:30", "base of 60"),
        ("max_batch_size: 0b_", "is not valid YAML"),
        ("--- {}\n--- {}", "another document"),
        ("\0", "is not valid YAML"),
        ("#" * 300_000, "is too large"),
        ("- a", "expected an object, got a list"),
        ("name: 2020-01-01", "name: expected a string, got a date"),
    ],
)
def test_hostile_yaml_is_refused(text: str, message: str) -> None:
    """Nothing is constructed but what JSON has too."""
    with pytest.raises(InvalidArgument, match=message):
        parse_yaml(text)


@given(st.binary(max_size=60) | st.text('{}[]",:\\ a1-', max_size=60))
def test_junk_text_gives_a_configuration_or_invalid_argument(text: bytes | str) -> None:
    """No other error comes out of any text, whatever language it is taken for."""
    for parse in (parse_json, parse_yaml):
        try:
            config = parse(text)
        except InvalidArgument:
            continue
        assert isinstance(config, ModelConfig)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["input", "dims", "name", "instance_group", "kind", "data_type"])
            | st.sampled_from(["dynamic_batching", "parameters", "optimization", "count"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JUNK)
def test_junk_values_give_a_configuration_or_invalid_argument(data: Any) -> None:
    """No other error comes out of any mapping."""
    try:
        config = read_config(data)
    except InvalidArgument:
        return
    assert read_config(config_to_dict(config)) == config
