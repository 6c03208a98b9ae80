"""The messages: the numbers of the protocol, and classes that behave as protobuf's own do."""

import ast
import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, assert_type

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.internal.containers import RepeatedScalarFieldContainer
from google.protobuf.message import Message

from penstock_protos import health, inference, model_config, pool, reflection, rpc_status

PROTOS = Path(pool.__file__).parents[1]
MODULES = (inference, model_config, health, reflection, rpc_status)
SERVICE_FILES = ("grpc_service.proto", "model_config.proto")
TABLE = Path(__file__).with_name("wire_fields.txt").read_text()
LINES = [line for line in TABLE.splitlines() if line and not line.startswith("#")]


def numbers(name: str) -> dict[str, int]:
    """Members and numbers of a message or enum of package inference."""
    try:
        descriptor = pool.POOL.FindMessageTypeByName(f"inference.{name}")
    except KeyError:
        enum = pool.POOL.FindEnumTypeByName(f"inference.{name}")
        return {value.name: value.number for value in enum.values}
    return {field.name: field.number for field in descriptor.fields}


def definitions(parent: Any) -> Iterator[Descriptor | EnumDescriptor]:
    """Every message and enum inside a file or a message, map entries left out."""
    is_file = hasattr(parent, "message_types_by_name")
    yield from parent.enum_types_by_name.values() if is_file else parent.enum_types
    for message in parent.message_types_by_name.values() if is_file else parent.nested_types:
        if not message.GetOptions().map_entry:
            yield message
            yield from definitions(message)


def run_python(code: str) -> str:
    """Output of a fresh interpreter that sees this package."""
    environment = os.environ | {"PYTHONPATH": str(PROTOS)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def stub_names(body: list[ast.stmt], outer: str = "") -> Iterator[str]:
    """Dotted names of the public classes that a stub declares."""
    for statement in body:
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
            yield outer + statement.name
            yield from stub_names(statement.body, f"{outer}{statement.name}.")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(":")[0])
def test_every_number_is_the_one_that_clients_rely_on(line: str) -> None:
    """Names and numbers are those of the table, no more and no fewer."""
    name, _, members = line.partition(":")
    pairs = (member.split("=") for member in members.split())

    actual = numbers(name)

    assert actual == {member: int(number) for member, number in pairs}


def test_the_table_of_numbers_is_complete() -> None:
    """A message that is not in the table does not exist."""
    files = [pool.POOL.FindFileByName(name) for name in SERVICE_FILES]

    names = [found.full_name for file in files for found in definitions(file)]

    assert sorted(names) == sorted(f"inference.{line.partition(':')[0]}" for line in LINES)


def test_loading_the_messages_leaves_grpc_alone() -> None:
    """Messages are data; a tool that only reads them needs no gRPC."""
    names = ", ".join(f"penstock_protos.{module.__name__.split('.')[-1]}" for module in MODULES)

    output = run_python(f"import sys, {names}; print('grpc' in sys.modules)")

    assert output == "False"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_messages_pickle_and_copy_wherever_they_were_found(protocol: int) -> None:
    """Nested ones, and those of another module reached through a field, come back as ours."""
    response = inference.ModelConfigResponse()
    response.config.instance_group.add(count=2).rate_limiter.priority = 3
    messages: list[Message] = [
        inference.ModelInferRequest(id="7", raw_input_contents=[b"\0"]),
        inference.ModelInferRequest.InferInputTensor(name="x", shape=[1, -1]),
        inference.InferParameter(bool_param=False),
        response.config,
        response.config.instance_group[0],
        model_config.ModelOptimizationPolicy.Cuda.GraphSpec(batch_size=3),
        rpc_status.RetryInfo(retry_delay=rpc_status.Duration(seconds=2)),
        health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING),
    ]

    copies = [pickle.loads(pickle.dumps(message, protocol)) for message in messages]

    assert copies == messages
    assert [type(found) for found in copies] == [type(message) for message in messages]
    assert [copy.copy(message) for message in messages] == messages
    assert [copy.deepcopy(message) for message in messages] == messages


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_stub_of_a_module_names_exactly_what_it_holds(module: ModuleType) -> None:
    """A type checker and the interpreter see the same classes."""
    stub = Path(str(module.__file__)).with_suffix(".pyi").read_text()
    files = {
        getattr(module, name).DESCRIPTOR.file
        for name in dir(module)
        if name[0].isupper() and hasattr(getattr(module, name), "DESCRIPTOR")
    }

    declared = sorted(stub_names(ast.parse(stub).body))

    held = [found for file in files for found in definitions(file)]
    assert declared == sorted(f.full_name.removeprefix(f"{f.file.package}.") for f in held)


def test_a_message_that_does_not_exist_is_an_attribute_error() -> None:
    """The classes are made on demand, and still the module behaves as a module."""
    with pytest.raises(AttributeError, match=r"penstock_protos\.inference.*ModelInferRequst"):
        getattr(inference, "ModelInferRequst")  # noqa: B009


def test_reflection_finds_every_service_in_the_pool() -> None:
    """Each is listed, and each of its methods leads to messages."""
    services = pool.services()

    methods = [len(pool.POOL.FindServiceByName(name).methods) for name in services]

    assert dict(zip(services, methods, strict=True)) == {
        "inference.GRPCInferenceService": 20,
        "inference.model_repository.ModelRepositoryService": 3,
        "grpc.health.v1.Health": 3,
        "grpc.reflection.v1.ServerReflection": 1,
        "grpc.reflection.v1alpha.ServerReflection": 1,
    }


def test_details_of_a_status_are_packed_and_unpacked() -> None:
    """Any and Duration of the private pool keep what protobuf gives these types."""
    violation = rpc_status.BadRequest.FieldViolation(field="inputs[0].shape", description="no")
    request = rpc_status.BadRequest(field_violations=[violation])
    status = rpc_status.Status(code=3, message="bad")
    status.details.add().Pack(request)

    unpacked = rpc_status.BadRequest()
    found = status.details[0].Unpack(unpacked)

    assert found
    assert unpacked == request
    assert rpc_status.RetryInfo(retry_delay=rpc_status.Duration(seconds=2)).retry_delay.seconds == 2


def test_types_are_known_to_the_last_field() -> None:
    """What is written here passes a strict type checker, which is the better half of this law."""
    request = inference.ModelInferRequest(model_name="m", raw_input_contents=[b"\0"])
    assert_type(request.inputs.add(name="x"), inference.ModelInferRequest.InferInputTensor)
    request.parameters["a"].bool_param = True
    request.inputs[0].contents.fp32_contents.extend([0.5])
    config = model_config.ModelConfig(dynamic_batching=model_config.ModelDynamicBatching())
    config.input.add().data_type = model_config.DataType.Value("TYPE_FP32")

    parsed = inference.ModelInferRequest.FromString(request.SerializeToString())

    assert_type(parsed, inference.ModelInferRequest)
    assert_type(parsed.inputs[0].shape, RepeatedScalarFieldContainer[int])
    assert_type(parsed.raw_input_contents[0], bytes)
    assert_type(config.input[0].data_type, model_config.DataType.ValueType)
    assert parsed == request
    assert parsed.parameters["a"].WhichOneof("parameter_choice") == "bool_param"
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert model_config.DataType.Name(config.input[0].data_type) == "TYPE_FP32"
    assert inference.ModelInferRequest.INPUTS_FIELD_NUMBER == 5


def test_what_is_committed_is_what_the_proto_files_say() -> None:
    """Nobody edits the descriptor set or a stub by hand, and nobody forgets to rebuild them."""
    pytest.importorskip("grpc_tools")
    import build_protos

    generated = build_protos.generate()

    assert build_protos.check(generated) == 0
