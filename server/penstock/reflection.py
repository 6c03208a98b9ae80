"""Server reflection: tools such as grpcurl ask for descriptors. v1alpha has the bytes of v1."""

from collections.abc import AsyncIterator, Iterator
from functools import cache

from google.protobuf.descriptor import FileDescriptor

from penstock.messages import parse
from penstock.rpc import SERVICES
from penstock.transport.base import Call
from penstock_protos import reflection
from penstock_protos.pool import POOL

_NOT_FOUND, _UNIMPLEMENTED, _INVALID_ARGUMENT = 5, 12, 3
Response = reflection.ServerReflectionResponse


class Reflection:
    """Answers from the pool that the messages themselves come from."""

    async def reflection_info(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """One response for each request, in order."""
        async for data in messages:
            request = parse(reflection.ServerReflectionRequest, data)
            response = _answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            await call.write(response.SerializeToString())


def _answer(request: reflection.ServerReflectionRequest) -> Response:
    kind = request.WhichOneof("message_request")
    if kind == "list_services":
        return _services()
    if kind == "file_by_filename":
        return _file(_find_file(request.file_by_filename), request.file_by_filename)
    if kind == "file_containing_symbol":
        return _file(_find_symbol(request.file_containing_symbol), request.file_containing_symbol)
    if kind is None:
        return _error(_INVALID_ARGUMENT, "the request asks for nothing")
    return _error(_UNIMPLEMENTED, "extensions do not exist in proto3 messages")


def _services() -> Response:
    listed = [reflection.ServiceResponse(name=name) for name in sorted(SERVICES)]
    return Response(list_services_response=reflection.ListServiceResponse(service=listed))


def _file(file: FileDescriptor | None, asked: str) -> Response:
    if file is None:
        return _error(_NOT_FOUND, f"{asked[:256]!r} is not known here")
    found = reflection.FileDescriptorResponse(file_descriptor_proto=_closure(file.name))
    return Response(file_descriptor_response=found)


def _error(code: int, text: str) -> Response:
    return Response(error_response=reflection.ErrorResponse(error_code=code, error_message=text))


def _find_file(name: str) -> FileDescriptor | None:
    try:
        return POOL.FindFileByName(name)
    except KeyError:
        return None


def _find_symbol(symbol: str) -> FileDescriptor | None:
    """The file that defines a service, method, message, field or enum."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        return _find_member(symbol)


def _find_member(symbol: str) -> FileDescriptor | None:
    # Some versions of protobuf know no methods or fields by name; their parents they all know.
    parent, _, member = symbol.rpartition(".")
    for find, members in (
        (POOL.FindServiceByName, "methods_by_name"),
        (POOL.FindMessageTypeByName, "fields_by_name"),
    ):
        try:
            owner = find(parent)
        except KeyError:
            continue
        if member in getattr(owner, members):
            file: FileDescriptor = owner.file
            return file
    return None


@cache
def _closure(name: str) -> tuple[bytes, ...]:
    """A file and everything that it imports, each once: a client needs all of it to make sense."""
    seen: dict[str, bytes] = {}
    for file in _walk(POOL.FindFileByName(name)):
        seen.setdefault(file.name, file.serialized_pb)
    return tuple(seen.values())


def _walk(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for dependency in file.dependencies:
        yield from _walk(dependency)
