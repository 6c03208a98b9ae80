"""From bytes to a queued request, for the unary call and the stream alike: decode, refuse what this
server does not do, hand over to the core.
"""

import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from penstock.auth.caller import ANYONE, Permit, permit_of
from penstock.codec.decode import decode_parts, decode_request
from penstock.codec.heavy import CONTENTS_LIMIT, is_heavy, is_heavy_placed
from penstock.codec.templates import Template
from penstock.codec.wire import Buffer
from penstock.placing import RegionPlacing
from penstock.restrictions import HEADER_PREFIX
from penstock.tracer import Plan, Tracer, begin
from penstock.transport.base import Call
from penstock.unary_request import UnaryRequest
from penstock.wishes import wants_gathered
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import Cancelled, InvalidArgument, PenstockError, Unsupported
from penstock_runtime.model import Model
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"


class Holder(Protocol):
    """Whoever wants to know the request as soon as there is one, even if it is refused later."""

    request: InferRequest | None


class Admission:
    """Decodes requests and hands them to the core. Thread-safe: heavy ones come from a thread.

    `is_heavy` says of a request whether it is one. Without `placing` none may use shared memory.
    """

    def __init__(
        self,
        core: InferenceCore,
        header_pattern: str = "",
        placing: RegionPlacing | None = None,
        *,
        flag: str = "--grpc-header-forward-pattern",
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self._core = core
        self._forward = _compile(header_pattern, flag)
        self._secrets = secrets
        self.placing = placing
        self.decode_parts = decode_parts if placing is None else placing.decode_parts
        # Chosen once: requests of a server that shares no memory pay nothing for it.
        self._decode = decode_request if placing is None else placing.decode
        self._infer = core.infer if placing is None else placing.infer
        self.is_heavy = is_heavy if placing is None else is_heavy_placed
        self.light_bytes = CONTENTS_LIMIT if placing is None else 0
        """No request of so many bytes is heavy."""
        self.tracer: Tracer | None = None
        """Asked of every request whether to trace it; None: nobody is asked."""

    def headers(self, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """The part of a call's metadata that is forwarded to models."""
        if self._forward is None:
            return NO_HEADERS
        search = self._forward.search
        # Secrets are for the server: a model might log or answer what it is told.
        return {
            name: value
            for name, value in metadata.items()
            if search(name) and not name.startswith(HEADER_PREFIX) and name not in self._secrets
        }

    @property
    def forwards(self) -> bool:
        """Whether any metadata is forwarded."""
        return self._forward is not None

    def admit(
        self,
        data: Buffer,
        stream: ResponseStream,
        holder: Holder,
        deadline_ns: int | None,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        unary: bool = False,
        tell: Callable[[bool], None] | None = None,
        permit: Permit = ANYONE,
        call: Call | None = None,
        verdict: Plan | bool = True,
    ) -> bool:
        """Decode and queue one request; whether its model is decoupled. Raises what refuses it.

        `tell` is told whether it is before the model can answer; `permit` is what the caller may
        do. `call` is what the request came with; without it the request is not traced. `verdict` is
        how it is traced if that has been asked before (False: not at all).
        """
        request = self._decode(data, time.monotonic_ns(), deadline_ns, headers, headers)
        refusal = _DECOUPLED if unary else ""
        return self.enter(request, stream, holder, refusal, tell, permit, call, verdict)

    def enter(
        self,
        request: InferRequest,
        stream: ResponseStream,
        holder: Holder,
        decoupled_refusal: str = "",
        tell: Callable[[bool], None] | None = None,
        permit: Permit = ANYONE,
        call: Call | None = None,
        verdict: Plan | bool = True,
    ) -> bool:
        """As `admit` for a request that is decoded. One whose caller takes one response only says
        what refuses it where its model gives any number of them, and it does not ask for one.
        """
        holder.request = request
        if permit is not ANYONE:
            permit.check(request.model_name)
        model = self._core.serving(request)
        decoupled = model.decoupled
        if tell is not None:
            tell(decoupled)
        if decoupled and decoupled_refusal:
            way = wants_gathered(request)
            if not way and not model.answers_whole:
                raise Unsupported(decoupled_refusal)
            request = holder.request = request._replace(single=not way, gathered=way)
        if stream.cancelled:
            raise Cancelled("the request was cancelled")
        if self.tracer is not None and call is not None:
            request = holder.request = _traced(
                request, model.config.name, self.tracer, call, verdict
            )
        self._infer(request, stream, model)
        return decoupled

    def recognise(self, request: UnaryRequest, template: Template, identity: str) -> Model | None:
        """Make a request that differs from one before in id and data only ready for its model.

        None if it has to be admitted the careful way.
        """
        kind = template.envelope
        try:
            model = self._core.model(kind.model_name, kind.model_version)
        except PenstockError:
            # The careful way says why, or knows where the sequence of the request goes on.
            return None
        known = model.recall(template)
        if known is None or model.decoupled:
            return None
        request.become(template, identity, known, request.call.deadline_ns)
        return model


class LimitedAdmission(Admission):
    """The admission of a server that knows its callers: not each may use every model."""

    def headers(self, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """As without callers; what tells who they are is for the server alone."""
        forwarded = super().headers(metadata)
        return {name: value for name, value in forwarded.items() if name != "authorization"}

    def recognise(self, request: UnaryRequest, template: Template, identity: str) -> Model | None:
        """As without callers, for a caller who may use the model."""
        permit_of(request.call).check(template.envelope.model_name)
        return super().recognise(request, template, identity)


def _traced(
    request: InferRequest, model: str, tracer: Tracer, call: Call, verdict: Plan | bool
) -> InferRequest:
    """The request with its trace, if it is to have one."""
    plan = verdict
    if plan is True:
        plan = tracer.sample(model, call) or False
    return request if isinstance(plan, bool) else request._replace(trace=begin(plan, request, call))


def _compile(pattern: str, flag: str) -> "re.Pattern[str] | None":
    if not pattern:
        return None
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InvalidArgument(f"{flag} {pattern!r} is not a regular expression: {error}") from None
