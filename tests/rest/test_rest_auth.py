"""Callers over HTTP: each may do what its token says, on every path."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tests.e2e.running import MODELS, Running, ServerThread
from tests.rest.serving import address, document, http_options, inputs, url
from tests.rest.test_rest_port import IN, TELLS
from tests.server_process import write_model
from tritonclient.utils import InferenceServerException

from penstock.rest.assembly import make_routes
from penstock.rest.route import Route
from penstock.restrictions import GROUPS

ADMIN, TEAM = "the-admin's token", "team-token"
RULES = {
    "open": ["none"],
    "tokens": [
        {"name": "admin", "token": ADMIN, "groups": list(GROUPS)},
        {"name": "team", "token": TEAM, "groups": list(GROUPS), "models": ["simple", "tells"]},
        {"name": "reader", "token": "reader-token", "groups": ["health", "metadata"]},
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that nobody is served by who is not known."""
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tells", TELLS)
    rules = tmp_path_factory.mktemp("auth") / "auth.json"
    rules.write_text(json.dumps(RULES))
    settings = http_options(
        [MODELS, root], auth_config=str(rules), http_header_forward_pattern="authorization|x-"
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def web(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(running, ""), timeout=20) as made:
        yield made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def every_route(running: Running) -> list[Route]:
    services, core = running.server.services, running.server.core
    return make_routes(services, services.shop, core, lambda: b"")


def test_every_path_is_closed_to_who_is_not_known(running: Running, web: httpx.Client) -> None:
    """401 and how to be known, for no token, another one, and most of one."""
    paths = [
        (route.method, route.path.replace("{", "").replace("}", ""))
        for route in every_route(running)
    ]
    wrong: list[dict[str, str]] = [{}, bearer("guess"), bearer(ADMIN[:-1])]

    answers = [web.request(m, p, headers=h) for m, p in paths for h in wrong]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len(paths) > 30


def test_tritonclient_is_served_with_its_token(running: Running) -> None:
    """In the header that everyone has for it."""
    with triton.InferenceServerClient(address(running)) as client:
        result = client.infer("simple", inputs(), headers=bearer(TEAM))
        with pytest.raises(InferenceServerException, match="this server serves who it knows"):
            client.infer("simple", inputs())

    assert np.array_equal(result.as_numpy("OUTPUT0"), np.arange(1, 17).reshape(1, 16))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/infer", document()),
        ("POST", "/generate", {}),
        ("POST", "/generate_stream", {}),
        ("GET", "", None),
        ("GET", "/config", None),
        ("GET", "/stats", None),
    ],
)
def test_a_model_that_is_not_allowed_looks_like_one_that_is_not_there(
    web: httpx.Client, method: str, path: str, body: Any
) -> None:
    """403, and nobody learns which models there are."""
    there, nowhere = (
        web.request(method, f"/v2/models/{name}{path}", json=body, headers=bearer(TEAM))
        for name in ("simple_int8", "nowhere")
    )

    assert (there.status_code, nowhere.status_code) == (403, 403)
    assert there.json()["error"].replace("simple_int8", "nowhere") == nowhere.json()["error"]


def test_a_group_that_is_not_allowed_is_forbidden(web: httpx.Client) -> None:
    """Who may read metadata may not execute."""
    headers = bearer("reader-token")

    assert web.get("/v2/models/simple", headers=headers).status_code == 200
    assert web.post("/v2/models/simple/infer", json=document(), headers=headers).status_code == 403


def test_the_metrics_are_for_who_may_know_of_every_model(web: httpx.Client) -> None:
    """They name them all."""
    assert web.get("/metrics", headers=bearer(ADMIN)).status_code == 200
    assert web.get("/metrics", headers=bearer(TEAM)).status_code == 403


def test_models_are_not_told_the_token(web: httpx.Client) -> None:
    """Whatever the pattern of forwarded headers says."""
    headers = {**bearer(TEAM), "x-tenant": "a"}

    answer = web.post("/v2/models/tells/infer", json=IN, headers=headers)

    assert answer.json()["parameters"] == {"x-tenant": "a"}
