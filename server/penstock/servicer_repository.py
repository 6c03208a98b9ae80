"""The model repository over RPC: index, load, unload, in Triton's dialect and in KServe's.

Loads run in threads of their own: what they wait for must not hold up the loop, nor they each
other.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from penstock import describe
from penstock.auth.caller import Permit, permit_of
from penstock.messages import parse
from penstock.transport.base import Call
from penstock_protos import inference
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument, Unsupported
from penstock_runtime.repository.overrides import (
    LoadParameter,
    parse_load_parameters,
    parse_unload_parameters,
)

MAX_LOAD_BYTES = (1 << 31) - 1
MAX_PARAMETERS = 1100
_NO_REPOSITORY = "'repository_name' specification is not supported"


class RepositoryServicer:
    """Answers the calls that change what is served, and the one that lists it."""

    def __init__(self, core: InferenceCore, threads: ThreadPoolExecutor) -> None:
        self._core = core
        self._threads = threads

    async def repository_index(self, data: bytes, call: Call) -> bytes:
        """Every model and the state it is in."""
        request = parse(inference.RepositoryIndexRequest, data)
        if request.repository_name:
            raise Unsupported(_NO_REPOSITORY)
        permit = permit_of(call)
        entries = [entry for entry in self._core.index(request.ready) if permit.sees(entry.name)]
        return describe.index_response(entries).SerializeToString()

    async def repository_model_load(self, data: bytes, call: Call) -> bytes:
        """Load or reload a model; answers once it serves. A dry run says what would prevent that,
        and whether the model serves as it is.
        """
        loop = asyncio.get_running_loop()
        name, loaded = await loop.run_in_executor(self._threads, self._load, data, permit_of(call))
        message = inference.RepositoryModelLoadResponse(model_name=name, isLoaded=loaded)
        return message.SerializeToString()

    async def repository_model_unload(self, data: bytes, call: Call) -> bytes:
        """Take a model out of service; answers once no new request reaches it."""
        loop = asyncio.get_running_loop()
        name = await loop.run_in_executor(self._threads, self._unload, data, permit_of(call))
        message = inference.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)
        return message.SerializeToString()

    def _load(self, data: bytes, permit: Permit) -> tuple[str, bool]:
        request = parse(inference.RepositoryModelLoadRequest, data, MAX_LOAD_BYTES)
        name = _model_name(request.repository_name, request.model_name)
        permit.check(name)
        overrides = parse_load_parameters(_parameters(request.parameters))
        self._check_parts(permit, name, overrides.config_json)
        self._core.load(name, overrides)
        return name, not overrides.dry_run or self._core.model_ready(name)

    def _unload(self, data: bytes, permit: Permit) -> str:
        request = parse(inference.RepositoryModelUnloadRequest, data)
        name = _model_name(request.repository_name, request.model_name)
        permit.check(name)
        dependents = parse_unload_parameters(_parameters(request.parameters))
        if dependents:
            self._check_parts(permit, name)
        self._core.unload(name, dependents)
        return name

    def _check_parts(self, permit: Permit, name: str, config_json: str | None = None) -> None:
        """Refuse a caller who may not use what would be loaded or unloaded with the model."""
        if permit.models is not None:
            for part in self._core.parts(name, config_json):
                permit.check(part)


def _model_name(repository_name: str, model_name: str) -> str:
    """The model meant: KServe's clients put its name where Triton's put a repository."""
    if repository_name and model_name:
        raise Unsupported(_NO_REPOSITORY)
    return model_name or repository_name


def _parameters(
    found: Mapping[str, inference.ModelRepositoryParameter],
) -> dict[str, LoadParameter]:
    if len(found) > MAX_PARAMETERS:
        raise InvalidArgument(f"{len(found)} parameters, expected at most {MAX_PARAMETERS}")
    return {key: _value(key, value) for key, value in found.items()}


def _value(key: str, parameter: inference.ModelRepositoryParameter) -> LoadParameter:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidArgument(f"parameter {key[:128]!r} has no value")
    value: LoadParameter = getattr(parameter, choice)
    return value
