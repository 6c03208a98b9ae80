"""What a caller may ask about the server and its models: alive, ready, metadata, configuration,
statistics.
"""

from collections.abc import Sequence

from penstock import describe
from penstock.auth.caller import permit_of
from penstock.interceptors import Gate
from penstock.messages import parse
from penstock.transport.base import Call
from penstock.version import __version__
from penstock_protos import inference
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import NotFound, Unavailable

EXTENSIONS: Sequence[str] = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
)
"""The protocol's extensions that are always there; nothing is listed that would answer
UNIMPLEMENTED.
"""
LOGGING = "logging"
SYSTEM_SHARED_MEMORY, CUDA_SHARED_MEMORY = "system_shared_memory", "cuda_shared_memory"


class MetadataServicer:
    """Answers the calls that only look."""

    def __init__(
        self,
        core: InferenceCore,
        gate: Gate,
        server_name: str,
        *,
        strict_readiness: bool = True,
        more_extensions: Sequence[str] = (),
    ) -> None:
        self._core = core
        self._gate = gate
        self._server_name = server_name
        self._strict = strict_readiness
        self._extensions = (*EXTENSIONS, *more_extensions)

    # -- health ----------------------------------------------------------------------------------

    async def server_live(self, data: bytes, _call: Call) -> bytes:
        """Whether the process is alive at all."""
        self._refuse_when_exiting()
        parse(inference.ServerLiveRequest, data)
        return inference.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, data: bytes, _call: Call) -> bytes:
        """Whether traffic may be sent here."""
        self._refuse_when_exiting()
        parse(inference.ServerReadyRequest, data)
        return inference.ServerReadyResponse(ready=self.is_ready()).SerializeToString()

    async def model_ready(self, data: bytes, call: Call) -> bytes:
        """Whether a model serves; False, not an error, for one that is unknown or unloaded."""
        self._refuse_when_exiting()
        request = parse(inference.ModelReadyRequest, data)
        permit_of(call).check(request.name)
        ready = self._core.model_ready(request.name, request.version)
        return inference.ModelReadyResponse(ready=ready).SerializeToString()

    def is_ready(self) -> bool:
        """Readiness as this server was told to judge it."""
        if self._strict:
            return self._core.ready()
        return not self._core.exiting

    def _refuse_when_exiting(self) -> None:
        if self._gate.closed:
            raise Unavailable("Server exiting")

    # -- metadata --------------------------------------------------------------------------------

    async def server_metadata(self, data: bytes, _call: Call) -> bytes:
        """Name, version, extensions."""
        parse(inference.ServerMetadataRequest, data)
        message = describe.server_metadata(self._server_name, __version__, self._extensions)
        return message.SerializeToString()

    async def model_metadata(self, data: bytes, call: Call) -> bytes:
        """Inputs, outputs and ready versions of a model."""
        request = parse(inference.ModelMetadataRequest, data)
        permit_of(call).check(request.name)
        model = self._core.model(request.name, request.version)
        versions = [request.version] if request.version else self._versions(request.name)
        message = describe.metadata_response(request.name, model.config, versions)
        return message.SerializeToString()

    def _versions(self, name: str) -> list[str]:
        ready = [entry.version for entry in self._core.index(ready_only=True) if entry.name == name]
        return sorted(ready, key=lambda version: int(version or 0))

    async def model_config(self, data: bytes, call: Call) -> bytes:
        """The configuration that a model runs with."""
        request = parse(inference.ModelConfigRequest, data)
        permit_of(call).check(request.name)
        model = self._core.model(request.name, request.version)
        return describe.config_response(model.config).SerializeToString()

    async def model_statistics(self, data: bytes, call: Call) -> bytes:
        """Counts and times of one model, or of all."""
        request = parse(inference.ModelStatisticsRequest, data)
        if request.version and not request.name:
            raise NotFound("statistics of a version need the name of its model")
        permit = permit_of(call)
        if request.name:
            permit.check(request.name)
        found = self._core.statistics(request.name, request.version)
        snapshots = [snapshot for snapshot in found if permit.sees(snapshot.model)]
        return describe.statistics_response(snapshots).SerializeToString()
