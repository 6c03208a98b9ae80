"""Laws of config.pbtxt and of the ModelConfig message."""

from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from tests.config_strategies import configs
from tritonclient.grpc import model_config_pb2

from penstock.config_text import (
    config_from_message,
    config_message,
    parse_config_text,
    print_config_text,
)
from penstock_protos.model_config import ModelConfig as ModelConfigMessage
from penstock_runtime.config import InstanceGroup, ModelConfig
from penstock_runtime.config_extra import ExtraConfig
from penstock_runtime.config_kinds import (
    FLOAT32_MAX,
    Datatype,
    Enumeration,
    Flag,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Real,
    Text,
)
from penstock_runtime.config_schema import Message, fields_of
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

EXAMPLE = """
# Comments and brackets {{{ in them do not matter.
name: "bert"
backend: 'python'
max_batch_size: 8
input [ { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] } ]
output { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] }
instance_group [ { count: 2, kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_queue_policy { key: 1 value { timeout_action: DELAY } }
  length_batching { input: "ids" mask_name: "mask" pad_value: -inf }
}
parameters { key: "path" value { string_value: "{{[" } }
"""

BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def assert_same(kind: Kind, field: FieldDescriptor) -> None:
    """The kind reads exactly what a field of protobuf holds."""
    if isinstance(kind, ListOf):
        assert field.is_repeated
        assert_same(kind.item, field)
    elif isinstance(kind, MapOf):
        assert field.message_type is not None
        assert field.message_type.GetOptions().map_entry
        entry = field.message_type.fields_by_name
        assert_same(kind.key, entry["key"])
        assert_same(kind.item, entry["value"])
    elif isinstance(kind, Message):
        assert field.message_type is not None
        assert_same_fields(kind.cls, field.message_type)
    else:
        assert scalar(kind) == scalar_of(field), field.full_name


def assert_same_fields(cls: type[Any], descriptor: Descriptor) -> None:
    """The dataclass has the fields of the message."""
    specs = {spec.name: spec for spec in fields_of(cls).specs}
    assert specs.keys() == set(descriptor.fields_by_name), descriptor.full_name
    for name, field in descriptor.fields_by_name.items():
        assert_same(specs[name].kind, field)


def scalar(kind: Kind) -> object:
    """What a kind of scalar reads, in words that `scalar_of` has too."""
    if isinstance(kind, Integer):
        return kind.low, kind.high
    if isinstance(kind, Real):
        return "float" if kind.high == FLOAT32_MAX else "double"
    if isinstance(kind, Datatype):
        names = "TYPE_INVALID", *(one.config_name for one in DataType)
        return tuple((name, number) for number, name in enumerate(names))
    return (
        numbered(kind)
        if isinstance(kind, Enumeration)
        else {Text: "string", Flag: "bool"}[type(kind)]
    )


def numbered(kind: Enumeration) -> tuple[tuple[str, int], ...]:
    """The names of an enumeration and their numbers."""
    counted = range(len(kind.names) - len(kind.numbers))
    return tuple(zip(kind.names, (*counted, *kind.numbers), strict=True))


def scalar_of(field: FieldDescriptor) -> object:
    """What a scalar field of protobuf holds."""
    if field.enum_type is not None:
        return tuple((value.name, value.number) for value in field.enum_type.values)
    names = {
        FieldDescriptor.CPPTYPE_FLOAT: "float",
        FieldDescriptor.CPPTYPE_DOUBLE: "double",
        FieldDescriptor.CPPTYPE_STRING: "string",
        FieldDescriptor.CPPTYPE_BOOL: "bool",
    }
    return BOUNDS.get(field.cpp_type) or names[field.cpp_type]


def test_the_dataclasses_know_every_field_of_the_message() -> None:
    """Names, widths and enums are protobuf's, and no field is missing on either side."""
    known = {spec.name: spec for cls in (ModelConfig, ExtraConfig) for spec in fields_of(cls).specs}

    descriptor = ModelConfigMessage.DESCRIPTOR

    assert known.keys() == set(descriptor.fields_by_name)
    for name, field in descriptor.fields_by_name.items():
        assert_same(known[name].kind, field)


@given(configs())
def test_a_configuration_comes_back_from_its_text(config: ModelConfig) -> None:
    """Printing and parsing again changes nothing."""
    text = print_config_text(config)

    assert parse_config_text(text) == config
    assert parse_config_text(text.encode()) == config


@given(configs())
def test_a_configuration_comes_back_from_its_message(config: ModelConfig) -> None:
    """The message says all that the configuration says."""
    message = config_message(config)

    assert config_from_message(message) == config


@given(configs())
def test_tritonclient_reads_the_message_as_we_wrote_it(config: ModelConfig) -> None:
    """A stock client sees the same configuration; it skips what only penstock has."""
    data = config_message(config).SerializeToString()

    theirs = model_config_pb2.ModelConfig.FromString(data)

    ours = ModelConfigMessage.FromString(theirs.SerializeToString())
    assert config_from_message(ours) == config


def test_text_for_tritonclient_is_text_for_penstock() -> None:
    """Both parsers take one file for the same configuration."""
    text = EXAMPLE.replace('length_batching { input: "ids" mask_name: "mask" pad_value: -inf }', "")

    theirs = text_format.Parse(text, model_config_pb2.ModelConfig())

    ours = ModelConfigMessage.FromString(theirs.SerializeToString())
    assert config_from_message(ours) == parse_config_text(text)


def test_an_example_is_read_as_it_says() -> None:
    """Each line of a usual file has its effect."""
    config = parse_config_text(EXAMPLE)

    assert (config.name, config.backend, config.max_batch_size) == ("bert", "python", 8)
    assert config.input[0].dims == (-1,)
    assert config.instance_group == (InstanceGroup(count=2, kind="KIND_CPU"),)
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == (4, 8)
    assert config.dynamic_batching.priority_queue_policy[1].timeout_action == "DELAY"
    assert config.dynamic_batching.length_batching is not None
    assert config.dynamic_batching.length_batching.pad_value == float("-inf")
    assert config.parameter("path") == "{{["


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n  max_batch_size: x", r'line 3, column 19: .*integer: x, at "x"'),
        ("inputs { }", r'line 1, column 1: .*"inputs", did you mean input\?, at "inputs { }"'),
        ("input { diims: 3 }", r"column 9: .*did you mean dims\?"),
        ("input { data_type: TYPE_FOO }", "TYPE_FOO"),
        ("dynamic_batching { max_queue_delay_microseconds: -1 }", "out of range: -1"),
        ('name: "a" name: "b"', 'multiple "name" fields'),
        ("dynamic_batching {} sequence_batching {}", "specified along with"),
        ('name: "abc', "missing ending quote"),
        ("instance_group { kind: 77 }", r"instance_group\[0\].kind: expected one of .* got 77"),
        ('input { name: "a" }', r"input\[0\].data_type: is required"),
        ("max_batch_size: " + "9" * 100_000, "line 1, column 17"),
        ("name: '\\377'", "line 1"),
        ("input { " * 200, "nests deeper than 100 levels"),
        ("< " * 200, "nests deeper than 100 levels"),
        ("#" * (5 << 20), "is too large"),
        (b"\xff\xfe", "is not UTF-8"),
        ("}", "line 1, column 1"),
    ],
)
def test_text_that_is_wrong_is_refused_with_its_place(text: str | bytes, message: str) -> None:
    """Line, column and the words there, in a short text."""
    with pytest.raises(InvalidArgument, match=message) as caught:
        parse_config_text(text)

    assert len(str(caught.value)) < 500


def test_a_configuration_that_no_message_holds_is_refused() -> None:
    """Values made by hand are as suspect as those of a file."""
    with pytest.raises(InvalidArgument, match="'m' has no message"):
        config_message(ModelConfig(name="m", max_batch_size=2**31))


@given(
    st.binary(max_size=60)
    | st.text("{}[]<>\"':#\\\n ,;-/.a1", max_size=60)
    | st.lists(
        st.sampled_from(
            ["input", "{", "}", "[", "]", "<", ">", "name", ":", '"x"', "dims", "1", ","]
        )
        | st.sampled_from(["kind", "KIND_GPU", "-", "nan", "true", "parameters", "key", "#", "\n"]),
        max_size=12,
    ).map(" ".join)
)
def test_junk_gives_a_configuration_or_invalid_argument(text: bytes | str) -> None:
    """No other error comes out of any text."""
    try:
        config = parse_config_text(text)
    except InvalidArgument:
        return
    assert isinstance(config, ModelConfig)
