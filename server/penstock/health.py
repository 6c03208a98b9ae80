"""grpc.health.v1: what probes, load balancers and `round_robin` clients ask, for the server and for
each model.

Names: "" and the inference service follow readiness, as does `readiness`; `liveness` is true while
the loop turns; `model:<name>` and `model:<name>/<version>` follow one model.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum

from penstock.auth.caller import permit_of
from penstock.messages import parse
from penstock.rpc import INFERENCE_SERVICE
from penstock.transport.base import Call
from penstock_protos.health import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument, NotFound, ResourceExhausted

READINESS_NAMES = ("", INFERENCE_SERVICE, "readiness")
LIVENESS = "liveness"
MODEL_PREFIX = "model:"
MAX_LISTED = 100


class Serving(Enum):
    """What a service answers; the values are the protocol's numbers."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """Answers Check, List and Watch. Lives on the loop; `refresh` may come from any thread."""

    def __init__(
        self, core: InferenceCore, is_ready: Callable[[], bool], *, max_watchers: int = 1024
    ) -> None:
        self._core = core
        self._is_ready = is_ready
        self._max_watchers = max_watchers
        self._watchers: set[asyncio.Event] = set()
        self._loop = asyncio.get_running_loop()
        self._refreshing = False
        self._pulse: tuple[bool, ...] = ()
        self._closed = False
        self.draining = False

    # -- the three calls -------------------------------------------------------------------------

    async def health_check(self, data: bytes, call: Call) -> bytes:
        """The state now; NotFound for a name that nobody here bears."""
        service = parse(HealthCheckRequest, data).service
        _check_permit(service, call)
        state = self.state(service)
        if state is Serving.SERVICE_UNKNOWN:
            raise NotFound(f"unknown service {service[:128]!r}")
        return _message(state).SerializeToString()

    async def health_list(self, data: bytes, call: Call) -> bytes:
        """The state of every name; ResourceExhausted with more models than a reply should hold."""
        parse(HealthListRequest, data)
        sees = permit_of(call).sees
        models = sorted({entry.name for entry in self._core.index() if sees(entry.name)})
        if len(models) > MAX_LISTED:
            raise ResourceExhausted(f"{len(models)} models, a list holds at most {MAX_LISTED}")
        names = [*READINESS_NAMES, LIVENESS, *(MODEL_PREFIX + name for name in models)]
        statuses = {name: _message(self.state(name)) for name in names}
        return HealthListResponse(statuses=statuses).SerializeToString()

    async def health_watch(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """The state at once and then at every change; an unknown name may become known."""
        service = await _first_service(messages)
        _check_permit(service, call)
        if len(self._watchers) >= self._max_watchers:
            raise ResourceExhausted(
                f"{len(self._watchers)} watchers are there already, as many as are allowed",
                reason="HEALTH_WATCHERS",
            )
        changed = asyncio.Event()
        self._watchers.add(changed)
        told: Serving | None = None
        try:
            while True:
                state = self.state(service)
                if state is not told:
                    told = state
                    await call.write(_message(state).SerializeToString())
                    continue
                if self._closed:
                    return
                await changed.wait()
                changed.clear()
        finally:
            self._watchers.discard(changed)

    # -- the state -------------------------------------------------------------------------------

    def state(self, service: str) -> Serving:
        """The state of a name now."""
        if service in READINESS_NAMES:
            return _serving(not self.draining and self._is_ready())
        if service == LIVENESS:
            # A loop that stands still does not get here, and that is the answer then.
            return Serving.SERVING
        if service.startswith(MODEL_PREFIX):
            return self._model_state(service.removeprefix(MODEL_PREFIX))
        return Serving.SERVICE_UNKNOWN

    def _model_state(self, wanted: str) -> Serving:
        name, _, version = wanted.partition("/")
        if not self._is_known(name, version):
            return Serving.SERVICE_UNKNOWN
        return _serving(not self.draining and self._core.model_ready(name, version))

    def _is_known(self, name: str, version: str) -> bool:
        return any(
            entry.name == name and version in ("", entry.version) for entry in self._core.index()
        )

    def drain(self) -> None:
        """From now on nothing is serving but `liveness`."""
        self.draining = True
        self.look()

    def close(self) -> None:
        """End every Watch call: a transport that stops would wait for them in vain."""
        self._closed = True
        self.look()

    def beat(self) -> None:
        """Look if an instance died or came back, which no repository tells of; on the loop."""
        pulse = (self._is_ready(), *(model.healthy for model in self._core.repository.models()))
        if pulse != self._pulse:
            self._pulse = pulse
            self.look()

    def refresh(self) -> None:
        """Something may have changed; from any thread. Many changes make one look."""
        if self._refreshing:
            return
        self._refreshing = True
        try:
            self._loop.call_soon_threadsafe(self.look)
        except RuntimeError:
            # The loop is closed: nobody watches any more.
            self._refreshing = False

    def look(self) -> None:
        """Let every watcher compare; on the loop only."""
        self._refreshing = False
        for changed in self._watchers:
            changed.set()

    def __repr__(self) -> str:
        state = "draining" if self.draining else "open"
        return f"<Health {state}, {len(self._watchers)} watchers>"


async def _first_service(messages: AsyncIterator[bytes]) -> str:
    async for data in messages:
        return parse(HealthCheckRequest, data).service
    raise InvalidArgument("Watch needs one HealthCheckRequest, got none")


def _check_permit(service: str, call: Call) -> None:
    """Refuse a caller who may not know of the model that the name is about."""
    if service.startswith(MODEL_PREFIX):
        permit_of(call).check(service.removeprefix(MODEL_PREFIX).partition("/")[0])


def _serving(good: bool) -> Serving:
    return Serving.SERVING if good else Serving.NOT_SERVING


def _message(state: Serving) -> HealthCheckResponse:
    status = HealthCheckResponse.ServingStatus.ValueType(state.value)
    return HealthCheckResponse(status=status)
