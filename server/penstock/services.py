"""All handlers of one server, made of its core and its options, as methods for a transport."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from penstock.admission import Admission, LimitedAdmission
from penstock.auth.authority import Authority
from penstock.config import ServerOptions
from penstock.doorkeeper import Doorkeeper
from penstock.health import Health
from penstock.interceptors import Gate, Guard, Observer
from penstock.limits import ByteBudget, CopyBudget, default_inflight_bytes
from penstock.load_report import LoadReporter
from penstock.logs import Logs
from penstock.neighbours import Neighbours
from penstock.placing import RegionPlacing
from penstock.reflection import Reflection
from penstock.restrictions import read_restrictions
from penstock.rpc import INFERENCE_SERVICE, Kind, Rpc, bind
from penstock.servicer_infer import InferServicer
from penstock.servicer_logs import LogServicer
from penstock.servicer_metadata import (
    CUDA_SHARED_MEMORY,
    LOGGING,
    SYSTEM_SHARED_MEMORY,
    MetadataServicer,
)
from penstock.servicer_quick import QuickInfer
from penstock.servicer_repository import RepositoryServicer
from penstock.servicer_shared_memory import SharedMemoryServicer
from penstock.servicer_trace import TraceServicer
from penstock.tracer import Tracer
from penstock.transport.base import Method, QuickHandler, UnaryHandler
from penstock.workshop import StreamLimits, Workshop
from penstock_runtime.core import InferenceCore
from penstock_runtime.loop_inbox import LoopInbox
from penstock_runtime.memory.cupy_driver import cuda_works, find_driver
from penstock_runtime.memory.shared import RegionTable
from penstock_runtime.observability.access_log import AccessLog
from penstock_runtime.observability.metrics import Family, Sample

CODEC_THREADS = 2
ADMIN_THREADS = 4


@dataclass(frozen=True, slots=True)
class Services:
    """The handlers, and what the rest of the server needs of them."""

    methods: tuple[Method, ...]
    gate: Gate
    budget: ByteBudget
    copies: CopyBudget
    health: Health
    metadata: MetadataServicer
    regions: RegionTable
    threads: tuple[ThreadPoolExecutor, ...]
    shop: Workshop
    handlers: Mapping[str, UnaryHandler]
    """The unary calls of the inference service by their names, with nothing around them."""
    tracer: Tracer
    authority: Authority | None = None
    """Who knows the callers; None where anyone is served."""

    def close(self) -> None:
        """Let the threads go; what they still do is not waited for."""
        self.regions.close()
        for pool in self.threads:
            pool.shutdown(wait=False, cancel_futures=True)

    def families(self) -> list[Family]:
        """What is inside now, and what was refused for lack of memory."""
        budget, copies = self.budget, self.copies
        refused = budget.refused + copies.refused
        return [
            _one("penstock_inflight_calls", "Calls inside the server", self.gate.inflight),
            _one(
                "penstock_inflight_bytes", "Bytes of requests in flight", budget.used + copies.used
            ),
            _one("penstock_inflight_bytes_limit", "Their limit", budget.limit),
            Family(
                "penstock_inflight_bytes_refused_total",
                "counter",
                "Requests refused because of that limit",
                (Sample(refused),),
            ),
            *self.regions.families(),
        ]


def build_services(
    core: InferenceCore,
    options: ServerOptions,
    observer: Observer | None = None,
    access: AccessLog | None = None,
    logs: Logs | None = None,
    authority: Authority | None = None,
    tracer: Tracer | None = None,
    neighbours: Neighbours | None = None,
) -> Services:
    """The handlers of a server; call it on the loop that will serve them.

    `logs` are those that callers may see to; without them the program keeps its own. `authority`
    knows the callers; without it anyone is served. Without a `tracer` traces go nowhere.
    `neighbours` are told what is changed here.
    """
    gate = Gate()
    budget = ByteBudget(options.max_inflight_bytes or default_inflight_bytes())
    codec_threads = ThreadPoolExecutor(CODEC_THREADS, "penstock-codec")
    admin_threads = ThreadPoolExecutor(ADMIN_THREADS, "penstock-admin")
    admission = Admission if authority is None else LimitedAdmission
    copies = CopyBudget(budget)
    regions = RegionTable(options.max_shm_regions)
    shared = options.allow_client_shm
    placing = RegionPlacing(core, regions, copies) if shared else None
    shop = Workshop(
        admission=admission(core, options.grpc_header_forward_pattern, placing),
        inbox=LoopInbox(asyncio.get_running_loop()),
        threads=codec_threads,
        budget=budget,
        gate=gate,
        limits=StreamLimits(
            options.stream_max_inflight,
            options.stream_max_unsent_bytes,
            options.stream_stall_secs,
        ),
        access=access if access is not None else AccessLog(),
        load=LoadReporter(core.repository.models, gate),
    )
    tracer = tracer if tracer is not None else Tracer()
    trace_by(shop.admission, tracer)
    metadata = MetadataServicer(
        core,
        gate,
        options.server_name,
        strict_readiness=options.strict_readiness,
        more_extensions=_extensions(logs, shared=shared),
    )
    health = Health(core, metadata.is_ready, max_watchers=options.max_health_watchers)
    doorkeeper = Doorkeeper(read_restrictions(options.grpc_restricted_protocol), authority)
    guard = Guard(gate, observer, delay_s=options.grpc_response_delay_s, doorkeeper=doorkeeper)
    owners = (
        InferServicer(shop),
        metadata,
        RepositoryServicer(core, admin_threads),
        health,
        Reflection(),
        LogServicer(logs, neighbours),
        TraceServicer(core, tracer, neighbours),
        SharedMemoryServicer(regions, admin_threads, find_driver, allowed=shared),
    )
    bound = bind(*owners)
    methods = tuple(
        guard.method(rpc, handler, _quick(rpc, shop, observer, doorkeeper))
        for rpc, handler in bound
    )
    handlers = {
        rpc.name: handler
        for rpc, handler in bound
        if rpc.service == INFERENCE_SERVICE and rpc.kind is Kind.UNARY
    }
    return Services(
        methods,
        gate,
        budget,
        copies,
        health,
        metadata,
        regions,
        threads=(codec_threads, admin_threads),
        shop=shop,
        handlers=handlers,
        tracer=tracer,
        authority=authority,
    )


def _extensions(logs: Logs | None, *, shared: bool) -> tuple[str, ...]:
    """The extensions that this server has beside those that every server has."""
    found = [LOGGING] if logs is not None else []
    found += [SYSTEM_SHARED_MEMORY] if shared else []
    found += [CUDA_SHARED_MEMORY] if shared and cuda_works() else []
    return tuple(found)


def _quick(
    rpc: Rpc, shop: Workshop, observer: Observer | None, doorkeeper: Doorkeeper
) -> QuickHandler | None:
    """The quick way into the method, where there is one."""
    if rpc.name != "ModelInfer":
        return None
    return QuickInfer(shop, rpc, observer).handler(doorkeeper.check(rpc))


def trace_by(admission: Admission, tracer: Tracer) -> None:
    """Have requests ask the tracer, now and whenever it changes, if it could choose any."""
    tracer.listen(partial(_trace, admission, tracer))


def _trace(admission: Admission, tracer: Tracer) -> None:
    admission.tracer = tracer if tracer.active else None


def _one(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, (Sample(value),))
