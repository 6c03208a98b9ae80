"""The clients of KServe and of MLServer, each in an environment of its own, against a server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.interop.programs import BUILT, NOT_BUILT, SOURCES
from tests.transports import TRANSPORTS

pytestmark = pytest.mark.interop
SUMS = list(range(0, 32, 2))
NAMES = ["INPUT0", "INPUT1"]


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server on each transport whose models callers may load and unload."""
    settings = options(
        [MODELS],
        transport=request.param,
        model_control_mode="explicit",
        load_model=("*",),
        allow_http=True,
        http_address="127.0.0.1",
        http_port=0,
    )
    with ServerThread(settings) as made:
        yield made


def met(environment: str, running: Running) -> dict[str, Any]:
    """What the client of this environment met."""
    python = BUILT / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(NOT_BUILT)
    script: Path = SOURCES / "python" / f"{environment}_client.py"
    ended = subprocess.run(
        [python, script, running.target], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_kserves_client_infers_lists_loads_and_unloads(running: Running) -> None:
    """InferenceGRPCClient, raw and typed, and KServe's own messages of load and unload."""
    assert met("kserve", running) == {
        "live": True,
        "ready": True,
        "model ready": True,
        "unknown ready": False,
        "sums, raw": SUMS,
        "sums, typed": SUMS,
        "refusal": "NOT_FOUND",
        "metadata": NAMES,
        "unloaded": ["simple", True, False],
        "loaded": ["simple", True, True],
    }


def test_mlservers_stubs_infer_stream_list_load_and_unload(running: Running) -> None:
    """Its converters read raw outputs; its streams are bare if asked for; its repository service
    has a name of its own.
    """
    found = met("mlserver", running)

    states = [found.pop("repository"), found.pop("repository, old name")]
    assert found == {
        "live": True,
        "ready": True,
        "metadata": NAMES,
        "sums": SUMS,
        "stream": [SUMS, SUMS],
    }
    for state in states:
        assert state["unloaded"] in ("UNLOADING", "UNAVAILABLE")
        assert state["loaded"] == "READY"


@pytest.mark.parametrize("more", [(), ("--batch-size", "4"), ("--binary-data",)])
def test_mlservers_command_line_infers(
    running: Running, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """`mlserver infer`: a file of requests over HTTP, one by one, in small batches or as binary
    data; a file of answers.
    """
    program = BUILT / "mlserver" / "bin" / "mlserver"
    if not program.exists():
        pytest.skip(NOT_BUILT)
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    inputs = [
        {"name": name, "shape": [1, 16], "datatype": "INT32", "data": list(range(16))}
        for name in NAMES
    ]
    asked.write_text((json.dumps({"inputs": inputs}) + "\n") * 10)

    ended = subprocess.run(
        [
            str(program),
            "infer",
            *("--url", str(running.server.http_address), "--model-name", "simple"),
            *("--input-data-path", str(asked), "--output-data-path", str(answered), *more),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    answers = [json.loads(row) for row in answered.read_text().splitlines()]
    sums = [answer["outputs"][0]["data"] for answer in answers]
    assert [answer["model_name"] for answer in answers] == ["simple"] * 10
    assert sums == [SUMS] * 10
