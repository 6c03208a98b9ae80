"""Callers through real sockets: each may do what its token says, on both transports."""

import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS

from penstock.cli.main import main
from penstock.restrictions import GROUPS
from penstock.rpc import TABLE, Category, Kind, Rpc
from penstock_protos import inference
from penstock_protos.health import HealthCheckRequest

ADMIN, TEAM = "the-admin's token", "team-token"
RULES = {
    "open": ["none"],
    "tokens": [
        {"name": "admin", "token": ADMIN, "groups": list(GROUPS)},
        {
            "name": "team",
            "token": TEAM,
            "groups": list(GROUPS),
            "models": ["simple", "simple_i*"],
        },
        {"name": "reader", "token": "reader-token", "groups": ["health", "metadata"]},
    ],
}
GUARDED = [rpc for rpc in TABLE if rpc.category is not Category.REFLECTION]
FORBIDDEN = "simple_string"


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server on each transport that nobody is served by who is not known."""
    rules = tmp_path_factory.mktemp("auth") / "auth.json"
    rules.write_text(json.dumps(RULES))
    settings = options(
        [MODELS],
        auth_config=str(rules),
        transport=request.param,
        model_control_mode="explicit",
        load_model=("*",),
        grpc_header_forward_pattern="authorization|x-.*",
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def channel(running: Running) -> Iterator[Any]:
    with grpc.insecure_channel(running.target) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def ended(channel: Any, rpc: Rpc, message: bytes, *tokens: str) -> tuple[str, str]:
    """Status and text of a call; of a stream, after its first answer."""
    metadata = tuple(pair for token in tokens for pair in bearer(token))
    if rpc.name == "ModelStreamInfer":
        metadata += (("triton_grpc_error", "true"),)
    try:
        if rpc.kind is Kind.UNARY:
            channel.unary_unary(rpc.path)(message, metadata=metadata, timeout=30)
        else:
            call = channel.stream_stream(rpc.path)(iter((message,)), metadata=metadata, timeout=30)
            next(call, None)
            call.cancel()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def about(rpc: Rpc, model: str) -> bytes | None:
    """A message of this method that is about the model; None if it is about none."""
    name = rpc.name
    if name in ("ModelInfer", "ModelStreamInfer"):
        return infer_request(model).SerializeToString()
    if name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        message: Any = getattr(inference, f"{name}Request")(name=model)
    elif name in ("RepositoryModelLoad", "RepositoryModelUnload"):
        message = getattr(inference, f"{name}Request")(model_name=model)
    elif name == "TraceSetting":
        message = inference.TraceSettingRequest(model_name=model)
    elif name in ("Check", "Watch"):
        message = HealthCheckRequest(service=f"model:{model}")
    else:
        return None
    data: bytes = message.SerializeToString()
    return data


def infer_request(model: str) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name=model)
    for name in ("INPUT0", "INPUT1"):
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, "INT32"
        tensor.shape.extend((1, 16))
        request.raw_input_contents.append(np.ones((1, 16), np.int32).tobytes())
    return request


# -- every row -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", GUARDED, ids=lambda rpc: rpc.path)
def test_every_method_asks_who_calls(channel: Any, rpc: Rpc) -> None:
    """Nobody, and somebody with a token that is none, are told so; the admin gets further."""
    statuses = [ended(channel, rpc, b"", *tokens)[0] for tokens in ((), ("guess",), (TEAM[:-1],))]
    let_in = ended(channel, rpc, b"", ADMIN)[0]

    assert statuses == ["UNAUTHENTICATED"] * 3
    assert let_in not in ("UNAUTHENTICATED", "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "rpc", [r for r in GUARDED if about(r, "m") is not None], ids=lambda rpc: rpc.path
)
def test_every_method_that_is_about_a_model_asks_for_that_model(channel: Any, rpc: Rpc) -> None:
    """One that is there and one that is not are refused alike."""
    there, missing = about(rpc, FORBIDDEN), about(rpc, "nowhere")
    assert there is not None
    assert missing is not None

    refused = ended(channel, rpc, there, TEAM)
    unknown = ended(channel, rpc, missing, TEAM)

    assert refused == ("PERMISSION_DENIED", f"'team' may not use model '{FORBIDDEN}'")
    assert unknown == ("PERMISSION_DENIED", "'team' may not use model 'nowhere'")


@pytest.mark.parametrize("rpc", GUARDED, ids=lambda rpc: rpc.path)
def test_a_group_that_is_not_granted_is_refused(channel: Any, rpc: Rpc) -> None:
    """Known, and not allowed."""
    status = ended(channel, rpc, b"", "reader-token")[0]

    if rpc.category in (Category.HEALTH, Category.METADATA):
        assert status not in ("UNAUTHENTICATED", "PERMISSION_DENIED")
    else:
        assert status == "PERMISSION_DENIED"


# -- what is served ------------------------------------------------------------------------------


def test_the_quick_way_asks_as_the_careful_one_does(channel: Any) -> None:
    """Requests like one before are not parsed, and still each caller is looked at."""
    rpc = next(row for row in TABLE if row.name == "ModelInfer")
    data = infer_request("simple").SerializeToString()
    other = infer_request("simple_string").SerializeToString()

    outcomes = [ended(channel, rpc, data, token)[0] for token in (TEAM, ADMIN, TEAM, "guess", TEAM)]
    reader = ended(channel, rpc, data, "reader-token")[0]
    known = [ended(channel, rpc, other, token)[0] for token in (TEAM, TEAM)]

    assert outcomes == ["OK", "OK", "OK", "UNAUTHENTICATED", "OK"]
    assert reader == "PERMISSION_DENIED"
    assert known == ["PERMISSION_DENIED"] * 2


def test_lists_hold_what_the_caller_may_use(client: Any) -> None:
    """The others are not even named."""
    headers = dict(bearer(TEAM))

    index = client.get_model_repository_index(headers=headers)
    statistics = client.get_inference_statistics(headers=headers)

    assert {model.name for model in index.models} == {"simple", "simple_identity", "simple_int8"}
    assert {model.name for model in statistics.model_stats} <= {
        "simple",
        "simple_identity",
        "simple_int8",
    }


def test_a_stream_tells_each_request_what_it_may_not(channel: Any) -> None:
    """The stream stays open for the models that the caller may use."""
    rpc = next(row for row in TABLE if row.name == "ModelStreamInfer")
    messages = [infer_request(m).SerializeToString() for m in ("simple", FORBIDDEN, "simple")]

    answers = [
        inference.ModelStreamInferResponse.FromString(data)
        for data in channel.stream_stream(rpc.path)(
            iter(messages), metadata=bearer(TEAM), timeout=30
        )
    ]

    assert [answer.error_message for answer in answers] == [
        "",
        f"'team' may not use model '{FORBIDDEN}'",
        "",
    ]


def test_what_changes_the_server_is_told_with_its_caller(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, with the name and never the token."""
    with caplog.at_level(logging.INFO, "penstock.audit"):
        client.load_model("simple", headers=dict(bearer(ADMIN)))

    told = [record.getMessage() for record in caplog.records if record.name == "penstock.audit"]
    assert len(told) == 1
    assert told[0].startswith("RepositoryModelLoad by 'admin' from ")
    assert ADMIN not in caplog.text


def test_the_command_line_has_a_token(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """And says plainly what is wrong without it."""
    refused = main(["models", "--url", running.target])
    told = capsys.readouterr()
    listed = main(["models", "--url", running.target, "--token", ADMIN])

    assert (refused, listed) == (2, 0)
    assert "authorization: Bearer TOKEN" in told.err
    assert "simple_identity" in capsys.readouterr().out


def test_refusals_are_counted(running: Running, channel: Any) -> None:
    """By whether the caller was not known or not allowed."""
    rpc = next(row for row in TABLE if row.name == "RepositoryIndex")
    for token in ("guess", "reader-token"):
        ended(channel, rpc, b"", token)
    address = f"http://127.0.0.1:{running.metrics_port}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()

    for reason in ("unknown", "denied"):
        line = next(x for x in text.splitlines() if f'refused_total{{reason="{reason}"}}' in x)
        assert float(line.split()[-1]) > 0


def test_a_mistake_in_the_rules_ends_the_start(tmp_path: Path) -> None:
    """Before a port is opened."""
    rules = tmp_path / "auth.json"
    rules.write_text('{"tokens": [{"name": "x"}]}')

    command = [sys.executable, "-m", "penstock", "serve", str(MODELS), "--grpc-port", "0"]
    ended = subprocess.run(
        [*command, "--auth-config", str(rules)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 1
    told = "--auth-config: tokens[0]: expected exactly one of token, sha256, token_file"
    assert told in ended.stderr
