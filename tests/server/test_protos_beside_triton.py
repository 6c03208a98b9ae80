"""The messages beside those of Triton's own client: the same wire, the same text, one process."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as triton_config
from tritonclient.grpc import service_pb2 as triton_service

from penstock_protos import model_config, pool

CONFIGS = {
    "batching": """
        # Comments are part of the format.
        name: "resnet" platform: "onnxruntime_onnx" max_batch_size: 16
        input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, -1 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" } ]
        instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
        version_policy: { specific: { versions: [ 1, 3 ] } }
        dynamic_batching {
          preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 2
          priority_queue_policy { key: 1 value { timeout_action: DELAY max_queue_size: 7 } }
        }
        optimization { priority: PRIORITY_MAX cuda { graphs: true graph_spec {
          batch_size: 4 input { key: "x" value { dim: [ 3, 224, 224 ] } } } } }
        parameters { key: "mode" value { string_value: "fast" } }
    """,
    "sequence": """
        backend: "python"
        input { name: "i" data_type: TYPE_STRING dims: 1 allow_ragged_batch: true optional: true }
        batch_input { kind: BATCH_ITEM_SHAPE_FLATTEN target_name: "s" data_type: TYPE_INT32 }
        sequence_batching {
          direct { minimum_slot_utilization: 0.5 }
          control_input { name: "START" control {
            kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
          control_input { name: "ID" control {
            kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
          state { input_name: "a" output_name: "b" data_type: TYPE_BF16 dims: -1
                  initial_state { data_type: TYPE_BF16 dims: 1 zero_data: true name: "z" } }
        }
        model_warmup { name: "w" batch_size: 1 inputs { key: "i" value {
          data_type: TYPE_STRING dims: 1 random_data: true } } }
    """,
    "ensemble": """
        name: "chain" platform: "ensemble"
        ensemble_scheduling { max_inflight_requests: 3 step [ {
          model_name: "first" model_version: -1
          input_map { key: "a" value: "IN" } output_map { key: "b" value: "mid" } } ] }
        instance_group { rate_limiter { resources { name: "R" global: true count: 2 } } }
        model_transaction_policy { decoupled: true } response_cache { enable: true }
        model_metrics { metric_control { metric_identifier { family: "f" }
          histogram_options { buckets: [ 0.1, 1, 2.5 ] } } }
    """,
}
TRITON_MESSAGES = (
    triton_service.ModelInferRequest,
    triton_service.ModelInferResponse,
    triton_service.ModelStreamInferResponse,
    triton_service.ModelMetadataResponse,
    triton_service.ModelStatisticsResponse,
    triton_service.RepositoryModelLoadRequest,
    triton_service.CudaSharedMemoryStatusResponse,
    triton_service.LogSettingsResponse,
    triton_config.ModelConfig,
)


# Values of enums from here on are ours alone; Triton's clients keep them as numbers.
OWN_VALUES = 1000


def plain(file: Any) -> dict[str, Any]:
    """A file as data that compares: members of a message or enum by full name."""
    proto = FileDescriptorProto()
    found: dict[str, Any] = {}

    def add(message: Any, scope: str) -> None:
        name = f"{scope}.{message.name}"
        oneofs = [oneof.name for oneof in message.oneof_decl]
        for field in message.field:
            oneof = oneofs[field.oneof_index] if field.HasField("oneof_index") else None
            kind = (field.number, field.type, field.label, field.type_name, oneof)
            found[f"{name}.{field.name}"] = kind
        for enum in message.enum_type:
            found[f"{name}.{enum.name}"] = {
                value.name: value.number for value in enum.value if value.number < OWN_VALUES
            }
        for nested in message.nested_type:
            add(nested, name)

    file.CopyToProto(proto)
    for message in proto.message_type:
        add(message, proto.package)
    for method in (method for service in proto.service for method in service.method):
        streams = method.client_streaming, method.server_streaming
        found[method.name] = (method.input_type, method.output_type, streams)
    return found


def fill(message: Any, rng: random.Random, depth: int = 0) -> Any:
    """Sets a random choice of fields, all the way down."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3 + 0.1 * depth:
            continue
        is_message = field.message_type is not None
        if is_message and field.message_type.GetOptions().map_entry:
            fill_map(getattr(message, field.name), field.message_type, rng, depth)
        elif field.default_value == []:
            container = getattr(message, field.name)
            for _ in range(rng.randint(1, 3)):
                if is_message:
                    fill(container.add(), rng, depth + 1)
                else:
                    container.append(scalar(field, rng))
        elif is_message:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), rng, depth + 1)
        else:
            setattr(message, field.name, scalar(field, rng))
    return message


def fill_map(container: Any, entry: Descriptor, rng: random.Random, depth: int) -> None:
    key, value = entry.fields
    for _ in range(rng.randint(1, 3)):
        if value.message_type is not None:
            fill(container[scalar(key, rng)], rng, depth + 1)
        else:
            container[scalar(key, rng)] = scalar(value, rng)


def scalar(field: FieldDescriptor, rng: random.Random) -> Any:
    """A value that any field of this type takes."""
    if field.enum_type is not None:
        return rng.choice([value.number for value in field.enum_type.values])
    return {
        FieldDescriptor.CPPTYPE_BOOL: rng.random() < 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: rng.choice([0.0, -0.25, 1e30, float("inf")]),
        FieldDescriptor.CPPTYPE_DOUBLE: rng.choice([0.0, 0.1, -1e300, float("-inf")]),
        FieldDescriptor.CPPTYPE_STRING: (
            rng.randbytes(rng.randint(0, 9))
            if field.type == FieldDescriptor.TYPE_BYTES
            else rng.choice(["", "x", 'quote " and \\', "größe", "\n\t"])
        ),
    }.get(field.cpp_type, rng.choice([0, 1, 127, 128, 2**31 - 1]))


@pytest.mark.parametrize("triton", [triton_service.DESCRIPTOR, triton_config.DESCRIPTOR])
def test_whatever_tritons_client_declares_is_declared_alike(triton: Any) -> None:
    """Types, labels, oneofs, enum values and methods agree with the stock client's."""
    theirs = plain(triton)

    ours = plain(pool.POOL.FindFileByName(triton.name))

    assert {name: ours.get(name) for name in theirs} == theirs


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(TRITON_MESSAGES))
def test_a_message_of_tritons_client_comes_back_byte_for_byte(seed: int, kind: Any) -> None:
    """Parsed by us and serialised again, nothing is lost and nothing is added."""
    data = fill(kind(), random.Random(seed)).SerializeToString(deterministic=True)

    message = pool.message(kind.DESCRIPTOR.full_name).FromString(data)
    # What was kept only as unknown bytes would come back too.
    message.DiscardUnknownFields()

    assert message.SerializeToString(deterministic=True) == data


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_reads_as_it_does_in_triton(text: str) -> None:
    """The text format gives the same message and prints the same way."""
    theirs = text_format.Parse(text, triton_config.ModelConfig())

    ours = text_format.Parse(text, model_config.ModelConfig())

    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )
    assert text_format.MessageToString(ours) == text_format.MessageToString(theirs)


@given(seed=st.integers(0, 2**32))
def test_any_configuration_that_triton_prints_can_be_read(seed: int) -> None:
    """Printed by the stock client's message and parsed by ours, the bytes are the same."""
    theirs = fill(triton_config.ModelConfig(), random.Random(seed))

    ours = text_format.Parse(text_format.MessageToString(theirs), model_config.ModelConfig())

    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


def test_tritons_client_skips_what_penstock_adds() -> None:
    """A configuration with length batching reads as one without it."""
    text = 'name: "m" dynamic_batching { preferred_batch_size: 4 %s }'
    block = 'length_batching { input: "ids" strategy: BUCKET bucket_boundaries: [ 16, 64 ] }'
    ours = text_format.Parse(text % block, model_config.ModelConfig())

    theirs = triton_config.ModelConfig.FromString(ours.SerializeToString())
    theirs.DiscardUnknownFields()

    assert ours.dynamic_batching.length_batching.bucket_boundaries == [16, 64]
    assert theirs == text_format.Parse(text % "", triton_config.ModelConfig())


@pytest.mark.parametrize("first", ["penstock_protos.inference", "tritonclient.grpc"])
def test_one_process_holds_tritonclient_too_in_either_order(first: str) -> None:
    """Both define package inference, and neither disturbs the other."""
    code = f"""
import {first}
import penstock_protos.inference as ours, tritonclient.grpc.service_pb2 as theirs
import pickle
data = theirs.ModelInferRequest(id="7", inputs=[{{"name": "x"}}]).SerializeToString()
message = ours.ModelInferRequest.FromString(data)
again = pickle.loads(pickle.dumps(message.inputs[0]))
print(message.SerializeToString() == data, type(again) is ours.ModelInferRequest.InferInputTensor)
"""

    environment = os.environ | {"PYTHONPATH": str(Path(pool.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert output.stdout.split() == ["True", "True"]
