"""Traces and load reports over HTTP: the same settings, and requests of this port are traced."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.http as triton
from tests.e2e.running import MODELS, Running, ServerThread
from tests.rest.serving import address, document, http_options, url
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A server that may trace, to a file; and the file."""
    file = tmp_path_factory.mktemp("traces") / "trace.json"
    flags = (f"triton,file={file}", "rate=1")
    with ServerThread(http_options([MODELS], trace_config=flags)) as made:
        yield made, file


@pytest.fixture
def client(running: tuple[Running, Path]) -> Iterator[Any]:
    with triton.InferenceServerClient(address(running[0])) as made:
        yield made
        for model in ("simple", None):
            made.update_trace_settings(model, {"trace_level": None, "trace_rate": None})


def test_settings_have_the_forms_of_triton(client: Any) -> None:
    """The levels in a list, of the others the one value; None takes a setting back."""
    before = client.get_trace_settings()
    changed = client.update_trace_settings(
        settings={"trace_rate": "5", "trace_level": ["TIMESTAMPS", "TENSORS"]}
    )
    own = client.update_trace_settings("simple", {"trace_rate": "7"})
    cleared = client.update_trace_settings("simple", {"trace_rate": None})

    assert (before["trace_level"], before["trace_rate"]) == (["OFF"], "1")
    assert before["trace_file"].endswith("trace.json")
    assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS", "TENSORS"], "5")
    assert (own["trace_rate"], cleared["trace_rate"]) == ("7", "5")
    with pytest.raises(InferenceServerException, match="trace file location can not be updated"):
        client.update_trace_settings(settings={"trace_file": "/x"})


def test_requests_over_http_are_traced(client: Any, running: tuple[Running, Path]) -> None:
    """Those to infer and those to generate, while it is switched on and no longer."""
    server, file = running
    numbers = {"INPUT0": [[1] * 16], "INPUT1": [[1] * 16]}
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    httpx.post(url(server, "/v2/models/simple/infer"), json=document(id="a"))
    httpx.post(url(server, "/v2/models/simple/generate"), json={**numbers, "id": "b"})
    client.update_trace_settings(settings={"trace_level": ["OFF"]})
    httpx.post(url(server, "/v2/models/simple/infer"), json=document(id="c"))

    found = json.loads(file.read_text())

    assert [entry["request_id"] for entry in found if "request_id" in entry] == ["a", "b"]


@pytest.mark.parametrize("form", ["text", "JSON"])
def test_who_asks_for_the_load_is_told_in_a_header(
    running: tuple[Running, Path], form: str
) -> None:
    """As Triton tells it over HTTP, and nobody else is."""
    headers = {"endpoint-load-metrics-format": form}
    place = url(running[0], "/v2/models/simple/infer")

    asked = httpx.post(place, json=document(), headers=headers)
    silent = httpx.post(place, json=document())

    assert asked.headers["endpoint-load-metrics"].startswith(form.upper())
    assert "endpoint-load-metrics" not in silent.headers
