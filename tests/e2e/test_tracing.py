"""Traces and load reports of a running server, as its clients and its operator see them."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.otlp_collector import Collector
from tests.server.served_processes import MODEL, TWO, Connection
from tests.server_process import server_process, write_model
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

START = {
    "trace_level": ["OFF"],
    "trace_rate": ["1"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_mode": ["triton"],
}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID, SPAN = bytes.fromhex(CALLER[3:35]), bytes.fromhex(CALLER[36:52])


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Path]]:
    """A server on each transport that may trace, to a file; and the file."""
    file = tmp_path_factory.mktemp("traces") / "trace.json"
    flags = (f"triton,file={file}", "rate=1")
    with ServerThread(options([MODELS], transport=request.param, trace_config=flags)) as made:
        yield made, file


@pytest.fixture
def client(running: tuple[Running, Path]) -> Iterator[Any]:
    """A client; the settings are as at the start before and after."""
    with triton.InferenceServerClient(running[0].target) as made:
        yield made
        for model in ("simple", None):
            made.update_trace_settings(model, dict.fromkeys(START))
        assert settings_of(made) == START


def settings_of(client: Any, model: str | None = None) -> dict[str, list[str]]:
    """Those in force, without the file, which is the same always."""
    found = client.get_trace_settings(model, as_json=True)["settings"]
    settings = {name: said["value"] for name, said in found.items()}
    assert settings.pop("trace_file")[0].endswith("/trace.json")
    return settings


def inputs(value: int) -> list[Any]:
    made = []
    for name in ("INPUT0", "INPUT1"):
        made.append(triton.InferInput(name, [1, 16], "INT32"))
        made[-1].set_data_from_numpy(np.full((1, 16), value, np.int32))
    return made


def traced(file: Path) -> list[dict[str, Any]]:
    """The file; what was traced is in it once the settings are changed."""
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return found


def test_settings_are_read_and_changed_for_all_and_for_one(client: Any) -> None:
    """A model's own win over those of all; None takes them back."""
    everywhere = client.update_trace_settings(
        settings={"trace_rate": "5", "trace_level": ["TIMESTAMPS", "TENSORS"]}, as_json=True
    )["settings"]
    own = client.update_trace_settings(
        "simple", {"trace_rate": "7", "log_frequency": "2"}, as_json=True
    )["settings"]

    assert everywhere["trace_rate"]["value"] == ["5"]
    assert everywhere["trace_level"]["value"] == ["TIMESTAMPS", "TENSORS"]
    assert own["trace_rate"]["value"] == ["7"]
    assert own["trace_level"]["value"] == ["TIMESTAMPS", "TENSORS"]
    assert settings_of(client, "simple_identity") == settings_of(client)
    cleared = client.update_trace_settings("simple", {"trace_rate": None}, as_json=True)
    assert cleared["settings"]["trace_rate"]["value"] == ["5"]
    assert settings_of(client, "simple")["log_frequency"] == ["2"]


@pytest.mark.parametrize(
    ("model", "settings", "status", "text"),
    [
        (
            None,
            {"trace_file": "/tmp/x"},
            "UNIMPLEMENTED",
            "trace file location can not be updated through network protocol",
        ),
        (None, {"trace_rate": "-1"}, "INVALID_ARGUMENT", "expected a whole number from 1"),
        ("simple", {"trace_level": ["ALL"]}, "INVALID_ARGUMENT", "expected OFF, or TIMESTAMPS"),
        (None, {"trace_mode": "opentelemetry"}, "INVALID_ARGUMENT", "was not started for it"),
        ("none", {"trace_rate": "1"}, "NOT_FOUND", "Request for unknown model: 'none'"),
    ],
)
def test_what_is_wrong_is_refused_whole(
    client: Any, model: str | None, settings: dict[str, Any], status: str, text: str
) -> None:
    """The good one before it is not taken either."""
    with pytest.raises(InferenceServerException, match=text) as error:
        client.update_trace_settings(model, {"trace_count": "3", **settings})

    assert error.value.status() == f"StatusCode.{status}"
    assert settings_of(client) == START


def test_the_extension_is_listed(client: Any) -> None:
    """A client finds out before it asks."""
    assert "trace" in client.get_server_metadata().extensions


def test_one_of_so_many_requests_is_traced_until_the_count_is_spent(
    client: Any, running: tuple[Running, Path]
) -> None:
    """Exactly, whichever way a request took: the first of a kind or a known one."""
    known = len(traced(running[1]))
    client.update_trace_settings(
        "simple", {"trace_level": ["TIMESTAMPS"], "trace_rate": "3", "trace_count": "4"}
    )

    answers = [client.infer("simple", inputs(n), request_id=f"r{n}") for n in range(1, 19)]
    left = settings_of(client, "simple")["trace_count"]
    client.update_trace_settings("simple", {"trace_level": ["OFF"]})

    assert [a.as_numpy("OUTPUT0")[0, 0] for a in answers] == [2 * n for n in range(1, 19)]
    found = traced(running[1])[known:]
    assert [said["request_id"] for said in found] == ["r3", "r6", "r9", "r12"]
    assert left == ["0"]
    for said in found:
        assert (said["model_name"], said["model_version"]) == ("simple", 1)
        names = [stamp["name"] for stamp in said["timestamps"]]
        times = [stamp["ns"] for stamp in said["timestamps"]]
        assert names == [
            "REQUEST_START",
            "QUEUE_START",
            "COMPUTE_START",
            "COMPUTE_INPUT_END",
            "COMPUTE_OUTPUT_START",
            "COMPUTE_END",
            "INFER_RESPONSE_COMPLETE",
            "REQUEST_END",
        ]
        assert times == sorted(times)


def test_tensors_are_traced_and_frequencies_make_files(
    client: Any, running: tuple[Running, Path]
) -> None:
    """Inputs and outputs with their data; two traces a file, the last may have less."""
    file = running[1]
    client.update_trace_settings("simple", {"trace_level": ["TENSORS"], "log_frequency": "2"})

    for number in range(3):
        client.infer("simple", inputs(number))
    client.update_trace_settings("simple", {"trace_level": ["OFF"]})

    parts = [json.loads(file.with_name(f"trace.json.{n}").read_text()) for n in range(2)]
    assert [sum("model_name" in said for said in part) for part in parts] == [2, 1]
    told = {
        (said["activity"], said["tensor"]["name"]): said["tensor"]
        for said in parts[1]
        if "tensor" in said
    }
    assert told["TENSOR_QUEUE_INPUT", "INPUT0"] == {
        "name": "INPUT0",
        "data": ",".join(["2"] * 16),
        "shape": "1,16",
        "dtype": "INT32",
    }
    assert told["TENSOR_BACKEND_OUTPUT", "OUTPUT0"]["data"] == ",".join(["4"] * 16)


def test_requests_of_a_stream_are_traced_with_their_responses(
    client: Any, running: tuple[Running, Path]
) -> None:
    """Of a decoupled model each response; what the client gets is what it gets otherwise."""
    known = len(traced(running[1]))
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    values = [np.array([4, 2, 0], np.int32), np.zeros(3, np.uint32), np.zeros(1, np.uint32)]
    asked = []
    for name, array in zip(("IN", "DELAY", "WAIT"), values, strict=True):
        kind = "INT32" if name == "IN" else "UINT32"
        asked.append(triton.InferInput(name, array.shape, kind))
        asked[-1].set_data_from_numpy(array)
    got: list[int] = []

    client.start_stream(lambda result, error: got.append(int(result.as_numpy("OUT")[0])))
    client.async_stream_infer("repeat_int32", asked, request_id="s1")
    client.stop_stream()
    client.update_trace_settings(settings={"trace_level": None})

    (said,) = traced(running[1])[known:]
    assert got == [4, 2, 0]
    assert said["request_id"] == "s1"
    names = [stamp["name"] for stamp in said["timestamps"]]
    assert names.count("INFER_RESPONSE_COMPLETE") == 3
    assert names.count("COMPUTE_START") == 1


def test_each_process_writes_a_file_of_its_own_until_it_ends(tmp_path: Path) -> None:
    """SIGTERM loses none of what was answered, whoever answered it."""
    models = tmp_path / "models"
    write_model(models, "pid", MODEL)
    file = tmp_path / "trace.json"
    flags = ("level=TIMESTAMPS", "rate=1", f"triton,file={file}")
    with server_process(models, TWO, *(f"--trace-config={flag}" for flag in flags)) as server:
        address = server.address()
        server.wait_for("ready: all")
        answered = Counter[int]()
        while len(answered) < 2:
            with Connection(address) as connection:
                answered[connection.call()] += 1
        server.process.terminate()
        assert server.exit_code() == 0

    written = [traced(file.with_name(f"trace.json.process{number}")) for number in range(2)]
    assert sorted(map(len, written)) == sorted(answered.values())
    assert not file.exists()


# -- load reports --------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "kind"), [("text", "TEXT"), ("json", "JSON"), ("", None)])
def test_a_load_report_comes_with_the_answer_of_who_asks(
    running: tuple[Running, Path], wanted: str, kind: str | None
) -> None:
    """In the trailing metadata, for known kinds of requests too; nobody else gets one."""
    request = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=[bytes(64)] * 2)
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    metadata = (("endpoint-load-metrics-format", wanted),) if wanted else ()

    with grpc.insecure_channel(running[0].target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        told: list[str] = []
        for _ in range(4):
            reply, call = stub.ModelInfer.with_call(request, metadata=metadata)
            assert reply.model_name == "simple"
            trailing = dict(call.trailing_metadata())
            told += [trailing[name] for name in ("endpoint-load-metrics",) if name in trailing]

    assert len(told) == (4 if kind is not None else 0)
    for report in told:
        assert report.startswith(f"{kind} ")
        assert "queue_depth" in report
        assert "rps_fractional" in report
        assert "cpu_utilization" in report


# -- OpenTelemetry -------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_spans_of_a_call_reach_the_collector_under_the_callers(transport: str) -> None:
    """Its traceparent is followed whatever the rate, and what waits is exported at the end."""
    collector = Collector()
    flags = (
        "mode=opentelemetry",
        f"opentelemetry,url={collector.url}",
        "opentelemetry,resource=service.name=tested",
        "level=TIMESTAMPS",
    )
    try:
        settings = options([MODELS], transport=transport, trace_config=flags)
        with (
            ServerThread(settings) as made,
            triton.InferenceServerClient(made.target) as client,
        ):
            assert client.get_trace_settings().settings["trace_mode"].value == ["opentelemetry"]
            for number in range(3):
                client.infer("simple", inputs(number))
            client.infer("simple", inputs(9), request_id="r9", headers={"traceparent": CALLER})
            with pytest.raises(InferenceServerException):
                client.infer("simple", inputs(9)[:1], headers={"traceparent": CALLER})
    finally:
        collector.stop()

    spans: dict[str, list[Any]] = {}
    for span in collector.spans():
        spans.setdefault(span.name, []).append(span)
    good, bad = spans["inference.GRPCInferenceService/ModelInfer"]
    assert {(span.trace_id, span.parent_span_id) for span in (good, bad)} == {(ID, SPAN)}
    told = {a.key: a.value.string_value or a.value.int_value for a in good.attributes}
    assert told["triton.request_id"] == "r9"
    assert told["rpc.grpc.status_code"] == 0
    assert told["client.address"] == "127.0.0.1"
    assert {a.key: a.value.int_value for a in bad.attributes}["rpc.grpc.status_code"] == 3
    (batch,) = spans["batch simple"]
    assert [(link.trace_id, link.span_id) for link in batch.links] == [(ID, good.span_id)]
    (compute,) = spans["compute"]
    assert compute.parent_span_id == good.span_id
    resources = {
        a.value.string_value
        for a in collector.requests[0].resource_spans[0].resource.attributes
        if a.key == "service.name"
    }
    assert resources == {"tested"}


def test_a_collector_that_is_not_there_harms_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers come as ever, the loss is counted, and the end waits no longer than it may."""
    monkeypatch.setattr("penstock.server.TRACE_STOP_S", 0.1)
    collector = Collector()
    collector.stop()
    flags = (
        "mode=opentelemetry",
        "rate=1",
        f"opentelemetry,url={collector.url}",
        "opentelemetry,bsp_schedule_delay=1",
        "opentelemetry,bsp_max_queue_size=2",
        "level=TIMESTAMPS",
    )

    with ServerThread(options([MODELS], trace_config=flags)) as made:
        with triton.InferenceServerClient(made.target) as client:
            answers = [client.infer("simple", inputs(n)) for n in range(20)]
        url = f"http://127.0.0.1:{made.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            lines = reply.read().decode().splitlines()

    assert [a.as_numpy("OUTPUT0")[0, 0] for a in answers] == [2 * n for n in range(20)]
    prefix = 'penstock_traces_dropped_total{mode="opentelemetry"} '
    (dropped,) = [int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]
    assert dropped > 0
