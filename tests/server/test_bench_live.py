"""`penstock bench` against servers that really serve, in this process."""

import csv
import io
import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import grpc
import numpy as np
import pytest
import trustme

from penstock.bench.loops import LoadRun
from penstock.bench.sample import Sample
from penstock.cli.main import main
from penstock.client import calls
from penstock.config import ServerOptions
from penstock.embedded import BackgroundServer
from penstock_protos import inference as pb

MODELS = """\
from collections.abc import Iterator
from penstock import FP32, INT32, model

@model
def double(X: FP32[2]) -> FP32[2].named("Y"):
    return X * 2
"""
COUNT = """\
from collections.abc import Iterator
from penstock import INT32, model

@model
def count(N: INT32[1]) -> Iterator[INT32[1].named("I")]:
    for i in range(int(N[0])):
        yield i
"""
BINARY = sys.executable
"""A file that is neither text nor a certificate."""
RAW = ("--body", "/dev/null")
SHORT = ("--warmup", "0.05", "--duration", "0.2")


@pytest.fixture(scope="module", params=["grpcio", "http2"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackgroundServer]:
    root = tmp_path_factory.mktemp("models")
    for name, code in {"double": MODELS, "count": COUNT}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(code)
    options = ServerOptions(
        model_repository=(str(root),),
        grpc_address=("127.0.0.1:0", f"unix:{root}/s"),
        metrics_port=0,
        transport=request.param,
    )
    with BackgroundServer(options) as started:
        yield started


@pytest.fixture(autouse=True)
def here(server: BackgroundServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", server.grpc_address)


Capture = pytest.CaptureFixture[str]


def rows_of(capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a run that succeeds, as JSON."""
    code = main(["bench", *arguments, "--json"])

    captured = capsys.readouterr()
    assert code == 0, captured.err
    return [json.loads(line) for line in captured.out.splitlines()]


@pytest.mark.parametrize("client", ["http2", "grpcio"])
@pytest.mark.parametrize("fresh", [(), ("--fresh-id", "--fresh-metadata")], ids=["same", "fresh"])
def test_both_kinds_of_load_reach_the_server_by_either_client(
    client: str, fresh: tuple[str, ...], capsys: Capture
) -> None:
    """No errors, and as many calls as were asked for."""
    common = ("double", "--client", client, "--connections", "2", *fresh)
    closed = rows_of(capsys, *common, "--concurrency", "1,6", *SHORT)
    opened = rows_of(capsys, *common, "--rate", "100", "--arrivals", "poisson", *SHORT)

    assert [row["concurrency"] for row in closed] == [1, 6]
    assert all(row["requests"] > 0 and row["errors"] == 0 for row in closed + opened)
    assert all(row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in closed + opened)
    assert (opened[0]["rate"], opened[0]["arrivals"]) == (100, "poisson")


@pytest.mark.parametrize("client", ["http2", "grpcio"])
def test_streams_have_a_first_response_and_gaps(client: str, capsys: Capture) -> None:
    """Five responses each; those of streams that began in the warm-up count as well."""
    stream = ("count", "--stream", "--input", "N=5", "--requests", "40", "--warmup", "0.05")
    (row,) = rows_of(capsys, *stream, "--client", client, "--concurrency", "4")

    assert row["requests"] == 40
    assert 4 <= row["messages_per_s"] / row["requests_per_s"] < 8
    assert 0 < row["first_p50_ms"] <= row["p50_ms"]
    assert row["gap_p99_ms"] >= row["gap_p50_ms"] >= 0


def test_a_unix_socket_is_as_good_as_a_port(server: BackgroundServer, capsys: Capture) -> None:
    """And the process behind it is found."""
    assert server.server is not None
    path = next(each for each in server.server.grpc_addresses if each.startswith("unix:"))

    (row,) = rows_of(capsys, "double", "--url", path, "--concurrency", "2", *SHORT)

    assert row["errors"] == 0
    assert row["server_cpu"] is not None


def test_inputs_and_bodies_come_from_files(tmp_path: Path, capsys: Capture) -> None:
    """JSON lines that are drawn at random; a serialised request as it is, with a new id."""
    (tmp_path / "lines").write_text('{"X": [1, 2]}\n\n{"X": [3.5, 4]}\n')
    body = calls.infer("double", {"X": np.ones(2, np.float32)}).request
    (tmp_path / "body").write_bytes(body)
    lines = ("--inputs-file", str(tmp_path / "lines"), "--random", "3")
    raw = ("--body", str(tmp_path / "body"), "--fresh-id")

    for given in (lines, raw):
        (row,) = rows_of(capsys, "double", *given, "--concurrency", "2", *SHORT)
        assert row["errors"] == 0


def test_failures_are_counted_and_explained(tmp_path: Path, capsys: Capture) -> None:
    """By status, with the first text of each; the code is 1."""
    body = pb.ModelInferRequest(model_name="nobody").SerializeToString()
    (tmp_path / "body").write_bytes(body)

    code = main(["bench", "double", "--body", str(tmp_path / "body"), "--concurrency", "2", *SHORT])

    captured = capsys.readouterr()
    assert code == 1
    assert "2 in flight:" in captured.err
    assert "x NOT_FOUND: " in captured.err


def test_a_service_level_is_the_exit_code(capsys: Capture) -> None:
    """0 when met, 1 when missed, and each term says how it stands."""
    load = ["bench", "double", "--rate", "50", *SHORT]
    codes = [main([*load, "--slo", slo]) for slo in ("p99<20s,errors<1%", "p50<1us")]

    said = capsys.readouterr().err
    assert codes == [0, 1]
    assert "p99<20s met: " in said
    assert "p50<1us missed: " in said


def test_the_highest_rate_is_searched(capsys: Capture) -> None:
    """From a first guess upwards or downwards; impossible goals end with 1."""
    search = ["bench", "double", "--find-max", "--warmup", "0.05", "--duration", "0.05"]
    none = main([*search, "--slo", "max<1us", "--rate", "4"])
    said_none = capsys.readouterr()
    some = main([*search, "--slo", "p50<30s", "--json"])
    said_some = capsys.readouterr()

    assert (none, some) == (1, 0)
    assert "no rate meets max<1us" in said_none.err
    assert "is the highest rate that meets p50<30s" in said_some.err
    assert len(said_some.out.splitlines()) > 2


def test_a_run_is_kept_compared_and_drawn(tmp_path: Path, capsys: Capture) -> None:
    """JSON for the next run to be held against, CSV for others, SVG for people."""
    load = ["bench", "double", "--concurrency", "1,4", *SHORT]
    main([*load, "--json"])
    (tmp_path / "old.json").write_text(capsys.readouterr().out)
    drawing = tmp_path / "plot.svg"
    codes = [main([*load, "--compare", str(tmp_path / "old.json"), "--plot", str(drawing)])]
    shown = capsys.readouterr().out
    codes.append(main([*load, "--csv"]))
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert codes == [0, 0]
    assert "IN FLIGHT" in shown
    assert "NEW / OLD" in shown
    assert "latency, logarithmic" in shown
    assert shown.isascii()
    assert ET.fromstring(drawing.read_text()).tag.endswith("svg")
    assert [row["concurrency"] for row in table] == ["1", "4"]


def test_an_interrupted_run_shows_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The rows that were measured are printed, and the code is that of an interrupt."""
    real = LoadRun.run

    def run(self: LoadRun) -> Sample:
        if self._level.concurrency == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(LoadRun, "run", run)

    code = main(["bench", "double", "--concurrency", "1,2,3", "--json", *SHORT])

    assert code == 130
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "1", "--concurrency", "1"], "two kinds of load"),
        (["--rate", "0"], "expected calls a second"),
        (["--find-max"], "--find-max needs --slo"),
        (["--find-max", "--slo", "p99<1s", "--rate", "1,2"], "expected at most one --rate"),
        (["--slo", "p99"], "'p99' is no limit"),
        (["--body", "/no/such"], "/no/such: No such file"),
        (["--body", "/dev/null", "--input", "X=1"], "expected no --input beside it"),
        (["--inputs-file", "/dev/null"], "is empty, expected a JSON object a line"),
        (["--compare", "/dev/null/x"], "/dev/null/x: Not a directory"),
        (["--connections", "1000"], "expected at most 512"),
        (["--requests", "0"], "expected a whole number above 0"),
        (["--url", "nonsense", "--body", "/dev/null"], "has no port"),
        (["--metadata", "Ä=1"], "metadata"),
        (["--json", "--csv"], "not allowed with argument"),
        (["--compare", "/dev/null", "--json"], "expected neither --json nor --csv beside it"),
        (["--compare", "/dev/null", "--csv"], "expected neither --json nor --csv beside it"),
        (["--rate", "1k,nan"], "expected calls a second"),
        (["--timeout", "inf"], "--timeout is inf, and a load has to end"),
        (["--timeout", "nan"], "expected a number above 0, got 'nan'"),
        (["--timeout", "1e12"], "expected at most 86,400 seconds, got '1e12'"),
        (["--duration", "inf"], "expected at most 86,400 seconds, got 'inf'"),
        (["--duration", "nan"], "expected a number above 0, got 'nan'"),
        (["--warmup", "inf"], "expected at most 86,400 seconds, got 'inf'"),
        (["--inputs-file", BINARY], "is no text in UTF-8"),
        (["--body", "/dev/null", "--url", "a..b:8001"], "a..b:8001 can be no name of a server"),
        (["--url", "a..b:8001"], "a..b:8001"),
        (["--client", "grpcio", *RAW, "--url", "127.0.0.1:1,[::1]:2"], "mix IPv4 and IPv6"),
        (["--client", "grpcio", *RAW, "--url", "nonsense,127.0.0.1:1"], "has no port"),
        (["--client", "grpcio", *RAW, "--metadata", "A B=c"], "metadata"),
        ([*RAW, "--tls-ca", "/nope.pem"], "/nope.pem: No such file"),
        ([*RAW, "--tls-ca", BINARY], f"{BINARY} cannot be used"),
        ([*RAW, "--tls-cert", "/nope.pem"], "/nope.pem: No such file"),
        ([*RAW, "--tls-key", BINARY], "--tls-key needs --tls-cert"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_plain_line(arguments: list[str], says: str, capsys: Capture) -> None:
    """Code 2, and what was expected."""
    code = main(["bench", "double", *arguments])

    captured = capsys.readouterr()
    assert code == 2
    assert says in captured.err
    assert captured.err.count("\n") == 1


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server that wants certificates of its clients: its address, and where the files are."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("localhost", "client"):
        issued = authority.issue_cert(name)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    files = [(tmp_path / f"localhost.{kind}").read_bytes() for kind in ("key", "pem")]
    credentials = grpc.ssl_server_credentials(
        [tuple(files)], (tmp_path / "ca.pem").read_bytes(), require_client_auth=True
    )
    started = grpc.server(ThreadPoolExecutor(2))
    started.add_generic_rpc_handlers((_Echo(),))
    port = started.add_secure_port("localhost:0", credentials)
    started.start()
    yield f"localhost:{port}", tmp_path
    started.stop(None).wait()


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, _: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda data, _: data)


@pytest.mark.parametrize("client", ["http2", "grpcio"])
def test_tls_in_both_directions(
    client: str, secure: tuple[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    """With the right files calls succeed; large bodies too."""
    url, files = secure
    (tmp_path / "body").write_bytes(
        pb.ModelInferRequest(model_name="m" * 300_000).SerializeToString()
    )
    tls = ["--tls-ca", "ca.pem", "--tls-cert", "client.pem", "--tls-key", "client.key"]
    options = [each if each.startswith("--") else str(files / each) for each in tls]
    load = ("--concurrency", "3", "--requests", "20", "--warmup", "0.05", "--client", client)

    (row,) = rows_of(capsys, "m", "--url", url, "--body", str(tmp_path / "body"), *options, *load)

    assert row["requests"] == 20


def test_a_server_that_is_not_trusted_is_left(secure: tuple[str, Path], capsys: Capture) -> None:
    """The error says that it was TLS."""
    url, _ = secure
    body = ("--body", "/dev/null", "--timeout", "5")

    code = main(["bench", "m", "--url", url, "--tls", *body, *SHORT])

    assert code == 2
    assert "TLS" in capsys.readouterr().err


def test_what_never_speaks_http2_is_told_apart(capsys: Capture) -> None:
    """A port that takes connections and says nothing is not waited for beyond the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        code = main(["bench", "m", "--url", address, "--body", "/dev/null", "--timeout", "0.2"])

    assert code == 2
    assert "is no HTTP/2 server" in capsys.readouterr().err
