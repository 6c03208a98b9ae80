"""TraceSetting: what is traced, read and changed while the server runs, for all models or one."""

import asyncio
import logging

from penstock.auth.caller import permit_of
from penstock.messages import parse
from penstock.neighbours import TRACES, Change, Neighbours, Nobody
from penstock.tracer import Tracer
from penstock.transport.base import Call
from penstock_protos import inference
from penstock_runtime.core import InferenceCore
from penstock_runtime.observability.access_log import peer_host

_log = logging.getLogger(__name__)

Response = inference.TraceSettingResponse


class TraceServicer:
    """Answers TraceSetting."""

    def __init__(
        self, core: InferenceCore, tracer: Tracer, neighbours: Neighbours | None = None
    ) -> None:
        self._core = core
        self._tracer = tracer
        self._neighbours = neighbours if neighbours is not None else Nobody()

    async def trace_setting(self, data: bytes, call: Call) -> bytes:
        """Change the settings that are named, all of them or none; answer those in force."""
        request = parse(inference.TraceSettingRequest, data)
        model, tracer = request.model_name, self._tracer
        if model or request.settings:
            # Whoever may not use every model changes nothing for all of them.
            permit_of(call).check(model)
        # One that has settings may have gone since, and still be looked at.
        if model and not tracer.has(model):
            self._core.model(model)
        if request.settings:
            given = {name: tuple(said.value) for name, said in request.settings.items()}
            # Aside: what was traced under the old settings is written first.
            await asyncio.to_thread(tracer.change, given, model)
            told = ", ".join(f"{name}={'+'.join(texts)}" for name, texts in given.items())
            of = f"model {model}" if model else "all models"
            await self._neighbours.tell(Change(TRACES, given, model))
            _log.info("trace settings of %s are changed by %s: %s", of, peer_host(call.peer), told)
        return _message(tracer.texts(model)).SerializeToString()


def _message(texts: dict[str, tuple[str, ...]]) -> Response:
    value = Response.SettingValue
    return Response(settings={name: value(value=said) for name, said in texts.items()})
