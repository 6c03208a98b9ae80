"""Tools that know nothing of the protocol learn all of it from reflection."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from tests.fakes_server import FakeCall, Messages, Streaming

from penstock.reflection import Reflection
from penstock.rpc import SERVICES
from penstock_protos.reflection import ServerReflectionRequest, ServerReflectionResponse


async def ask(*requests: ServerReflectionRequest) -> list[ServerReflectionResponse]:
    """The answers to a conversation."""
    messages = Messages([r.SerializeToString() for r in requests], closed=True)
    call = FakeCall()
    answers = Streaming(call, Reflection().reflection_info(aiter(messages), call))
    return [ServerReflectionResponse.FromString(data) for data in await answers.rest()]


async def files_of(request: ServerReflectionRequest) -> list[FileDescriptorProto]:
    """The files that answer one request."""
    (answer,) = await ask(request)
    found = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(data) for data in found]


@pytest.mark.asyncio
async def test_every_service_of_the_table_is_listed() -> None:
    """What is served can be found."""
    (answer,) = await ask(ServerReflectionRequest(list_services="*"))

    listed = [service.name for service in answer.list_services_response.service]
    assert listed == sorted(SERVICES)


@pytest.mark.asyncio
@pytest.mark.parametrize("service", SERVICES)
async def test_the_files_of_a_service_are_complete(service: str) -> None:
    """A client can build the service from the answer alone: no import is missing."""
    files = await files_of(ServerReflectionRequest(file_containing_symbol=service))

    pool = DescriptorPool()
    for file in reversed(files):
        pool.Add(file)
    assert pool.FindServiceByName(service).methods


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService.ModelInfer", "grpc_service.proto"),
        ("inference.ModelInferRequest", "grpc_service.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "grpc_service.proto"),
        ("inference.ModelInferRequest.model_name", "grpc_service.proto"),
        ("inference.ModelConfig", "model_config.proto"),
        ("grpc.health.v1.Health.Watch", "health.proto"),
    ],
)
async def test_members_are_found_as_well(symbol: str, file: str) -> None:
    """Methods, nested messages and fields lead to the file that defines them."""
    files = await files_of(ServerReflectionRequest(file_containing_symbol=symbol))

    assert files[0].name == file


@pytest.mark.asyncio
async def test_a_file_is_found_by_its_name_and_comes_first() -> None:
    """The file asked for comes first, then what it imports, each once."""
    files = await files_of(ServerReflectionRequest(file_by_filename="grpc_service.proto"))

    names = [file.name for file in files]
    assert names[0] == "grpc_service.proto"
    assert len(names) == len(set(names)) > 1


@pytest.mark.asyncio
async def test_what_is_not_there_is_an_error_in_the_stream() -> None:
    """An unknown name costs one error answer, and the conversation goes on."""
    answers = await ask(
        ServerReflectionRequest(host="h", file_containing_symbol="no.Such"),
        ServerReflectionRequest(file_by_filename="no.proto"),
        ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelInferRequest"),
        ServerReflectionRequest(),
        ServerReflectionRequest(list_services=""),
    )

    codes = [answer.error_response.error_code for answer in answers]
    assert codes == [5, 5, 12, 3, 0]
    assert answers[0].valid_host == "h"
    assert answers[0].original_request.file_containing_symbol == "no.Such"
