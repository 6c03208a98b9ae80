"""Requests over HTTP are counted once and logged once, in words that are not the caller's."""

from typing import Any

from penstock.rest.call import HttpCall
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.observed import HttpObserver
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock.tracer import _attributes
from penstock_runtime.observability.access_log import AccessEntry, AccessLog
from penstock_runtime.observability.metrics import render
from penstock_runtime.request import InferRequest

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def nothing(_exchange: Exchange) -> Reply:
    return Reply()


ROUTE = Route("POST", "/v2/models/{model}/infer", nothing, Category.INFERENCE)


def call(**headers: str) -> HttpCall:
    """A request to the route."""
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"client": ("127.0.0.1", 5), "headers": encoded}
    return HttpCall(scope, ROUTE.title)


def test_a_request_has_one_line_and_one_count() -> None:
    """With its route, its model, its id, its trace and its sizes."""
    lines: list[AccessEntry] = []
    observer = HttpObserver([ROUTE], AccessLog(lines.append), counted=True)
    asked = call(traceparent=PARENT)
    asked.request = InferRequest("m", (), id="r")

    observer.finished(asked, 200, "OK", 1, 10, 20)

    (line,) = lines
    assert (line.rpc, line.status, line.model, line.id) == (ROUTE.title, "OK", "m", "r")
    assert (line.peer, line.trace_id) == ("127.0.0.1", PARENT.split("-")[1])
    assert (line.request_bytes, line.response_bytes) == (10, 20)
    text = render(observer.families()).decode()
    sample = '{code="200",method="POST",route="/v2/models/{model}/infer"} 1'
    assert f"penstock_http_requests_total{sample}" in text
    assert 'penstock_http_request_seconds_count{method="POST"' in text


def test_nothing_is_counted_where_nobody_wants_it() -> None:
    """With --rpc-metrics=false."""
    observer = HttpObserver([ROUTE], AccessLog(), counted=False)

    observer.finished(call(), 200, "OK", 1, 0, 0)

    assert all(not family.samples for family in observer.families())


def test_a_span_of_http_has_the_words_of_http() -> None:
    """The route, not the path that a caller made up; and no RPC that there was not."""
    assert _attributes(call()) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "client.address": "127.0.0.1",
    }
