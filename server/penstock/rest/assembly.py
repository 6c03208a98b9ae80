"""The HTTP port of a server, put together from its options and its services."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from penstock.admission import Admission
from penstock.auth.authority import HEADER as AUTHORIZATION
from penstock.config import ServerOptions
from penstock.doorkeeper import Check, Doorkeeper
from penstock.http_side import HttpSide
from penstock.openai.routes import openai_routes
from penstock.rest.app import build_app
from penstock.rest.control import Control
from penstock.rest.face_generate import GenerateFace
from penstock.rest.face_health import HealthFace
from penstock.rest.face_infer import InferFace
from penstock.rest.face_memory import MemoryFace
from penstock.rest.face_metrics import MetricsFace
from penstock.rest.face_models import ModelsFace
from penstock.rest.face_settings import SettingsFace
from penstock.rest.guard import GuardTools
from penstock.rest.observed import HttpObserver
from penstock.rest.port import HttpPort, PortOptions
from penstock.rest.route import Route
from penstock.restrictions import HTTP, read_restrictions
from penstock.rpc import Rpc
from penstock.services import Services, trace_by
from penstock.tgi.face import TgiFace
from penstock.transport.addresses import listen_addresses
from penstock.workshop import Workshop
from penstock_runtime.core import InferenceCore

FORWARD_FLAG = "--http-header-forward-pattern"


def make_http_side(
    options: ServerOptions,
    services: Services,
    core: InferenceCore,
    render: Callable[[], bytes] | None = None,
) -> HttpSide:
    """The HTTP port of a server; `render` writes its metrics, None if it has none."""
    restrictions = read_restrictions(options.http_restricted_api, HTTP)
    secrets = frozenset(restriction.header for restriction in restrictions.values())
    if services.authority is not None:
        secrets |= {AUTHORIZATION}
    pattern = options.http_header_forward_pattern
    admission = Admission(
        core, pattern, services.shop.admission.placing, flag=FORWARD_FLAG, secrets=secrets
    )
    trace_by(admission, services.tracer)
    shop = replace(services.shop, admission=admission)
    routes = make_routes(services, shop, core, render)
    observer = HttpObserver(routes, shop.access, counted=options.rpc_metrics)
    tools = GuardTools(
        gate=shop.gate,
        budget=shop.budget,
        shop=shop,
        checks=checks_of(routes, Doorkeeper(restrictions, services.authority)),
        observer=observer,
        max_input_bytes=options.http_max_input_size,
        stall_s=options.stream_stall_secs,
    )
    address = listen_addresses((options.http_address,), options.http_port)[0]
    port = HttpPort(build_app(tools, routes), PortOptions(address, options.reuse_http_port))
    return HttpSide(port, observer.families)


def make_routes(
    services: Services,
    shop: Workshop,
    core: InferenceCore,
    render: Callable[[], bytes] | None = None,
) -> list[Route]:
    """The routes of every face of the server."""
    control = Control(services.handlers, shop)
    return [
        *InferFace(shop).routes(),
        *GenerateFace(shop, core).routes(),
        *openai_routes(shop, core),
        *TgiFace(shop, core).routes(),
        *HealthFace(control).routes(),
        *ModelsFace(control).routes(),
        *SettingsFace(control).routes(),
        *MemoryFace(control).routes(),
        *(MetricsFace(render, shop).routes() if render is not None else ()),
    ]


def checks_of(routes: Iterable[Route], doorkeeper: Doorkeeper) -> dict[str, Check]:
    """What is asked before each route that not everyone may call: of the route, whatever its path
    looks like in a request.
    """
    rows = ((route.title, Rpc("http", route.title, route.category, "")) for route in routes)
    found = ((title, doorkeeper.check(row)) for title, row in rows)
    return {title: check for title, check in found if check is not None}
