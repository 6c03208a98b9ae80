"""The manifests for KServe: only fields that its resources have, and a server that does with their
arguments what their probes ask of it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from tests.docker.dockerfile import ROOT, read
from tests.docs.repositories import triton_model
from tests.e2e.running import Running, ServerThread
from tests.transports import chosen

from penstock.config_sources import read_options
from penstock_protos.health import HealthCheckRequest, HealthCheckResponse

FOLDER = ROOT / "deploy" / "kserve"
# Field names of KServe 0.21 (serving.kserve.io/v1alpha1 and v1beta1), of which anything else is a
# mistake that a cluster may drop in silence; only those that a manifest here could want.
RUNTIME = {"annotations", "containers", "labels", "nodeSelector", "protocolVersions", "volumes"}
RUNTIME |= {"supportedModelFormats", "tolerations", "multiModel", "imagePullSecrets", "disabled"}
FORMAT = {"autoSelect", "name", "priority", "version"}
PREDICTOR = {"minReplicas", "maxReplicas", "model", "terminationGracePeriodSeconds", "autoScaling"}
MODEL = {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storageUri", "resources"}
CONTAINER = {"name", "image", "args", "ports", "securityContext", "resources", "volumeMounts"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PROBE = {"httpGet", "grpc", "periodSeconds", "failureThreshold", "initialDelaySeconds"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


RUNTIMES = {one["metadata"]["name"]: one for one in documents("runtimes.yaml")}
SERVICES = documents("inferenceservice.yaml")


def container(runtime: str) -> dict[str, Any]:
    (found,) = RUNTIMES[runtime]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_have_only_fields_that_there_are(name: str) -> None:
    """A misspelt field is dropped by a cluster, or refuses the whole."""
    runtime, one = RUNTIMES[name], container(name)

    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert runtime["kind"] == "ClusterServingRuntime"
    assert runtime["spec"].keys() <= RUNTIME
    assert all(each.keys() <= FORMAT for each in runtime["spec"]["supportedModelFormats"])
    assert one.keys() <= CONTAINER | {*PROBES}
    assert all(one[probe].keys() <= PROBE for probe in PROBES)
    mounted = {each["name"] for each in one["volumeMounts"]}
    assert mounted == {each["name"] for each in runtime["spec"]["volumes"]}


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_fits_the_image(name: str) -> None:
    """What the image writes to is mounted, since the rest is read-only; its user is not root; its
    name is that of the composition.
    """
    one, image = container(name), read(ROOT / "docker" / "Dockerfile.cpu").final

    assert one["name"] == "kserve-container"
    assert {each["mountPath"] for each in one["volumeMounts"]} == {
        *image.last("VOLUME").words(),
    }
    assert image.last("USER").value.split(":")[0] != "0"
    assert one["image"] in (ROOT / "docker" / "compose.yaml").read_text()
    closed = one["securityContext"]
    assert closed["runAsNonRoot"]
    assert closed["readOnlyRootFilesystem"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_opens_one_port_and_its_probes_ask_there(name: str) -> None:
    """Knative allows one port, and names it by what is spoken there."""
    one, (protocol,) = container(name), RUNTIMES[name]["spec"]["protocolVersions"]
    (port,) = one["ports"]

    options = read_options(one["args"][1:], {})
    expected = ("h2c", options.grpc_port) if protocol == "grpc-v2" else ("http1", options.http_port)
    assert (port["name"], port["containerPort"]) == expected
    for probe in PROBES:
        asked = one[probe].get("grpc") or one[probe]["httpGet"]
        assert asked["port"] == port["containerPort"]
    scraped = RUNTIMES[name]["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert int(scraped) == options.metrics_port


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_asks_for_what_its_runtime_has(service: dict[str, Any]) -> None:
    """Runtime, protocol and format agree, and the pod may end as slowly as the server does."""
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    spec = RUNTIMES[model["runtime"]]["spec"]

    assert predictor.keys() <= PREDICTOR
    assert model.keys() <= MODEL
    assert model["protocolVersion"] in spec["protocolVersions"]
    assert model["modelFormat"]["name"] in {each["name"] for each in spec["supportedModelFormats"]}
    options = read_options((), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    least = options.drain_delay + options.exit_timeout_secs
    assert predictor["terminationGracePeriodSeconds"] > least


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that KServe's initialiser fills: one model, whatever its folder's name."""
    return triton_model(tmp_path_factory.mktemp("mnt") / "models")


@pytest.fixture(scope="module", params=RUNTIMES)
def running(request: pytest.FixtureRequest, mounted: Path) -> Iterator[tuple[str, Running]]:
    """A server with the arguments of a runtime, but for the ports."""
    words = [
        word.replace("/mnt/models", str(mounted)).replace("{{.Name}}", "adder")
        for word in container(request.param)["args"]
    ]
    elsewhere: dict[str, Any] = {
        **dict.fromkeys(("grpc_port", "http_port", "metrics_port"), 0),
        **dict.fromkeys(("http_address", "metrics_address"), "127.0.0.1"),
        "grpc_address": ("127.0.0.1",),
        "transport": chosen(),
    }
    options = replace(read_options(words[1:], {}), **elsewhere)
    with ServerThread(options) as made:
        yield request.param, made


def test_the_probes_of_a_runtime_are_answered(running: tuple[str, Running]) -> None:
    """Each probe of the manifest succeeds once the model is loaded under the service's name."""
    name, server = running
    http = server.server.http_address
    assert http is not None

    assert httpx.get(f"http://{http}/v2/models/adder/ready").status_code == 200
    for probe in PROBES:
        asked = container(name)[probe]
        if "httpGet" in asked:
            answer = httpx.get(f"http://{http}{asked['httpGet']['path']}")
            assert answer.status_code == 200
        else:
            assert checked(server.target, asked["grpc"]["service"]) == "SERVING"


def checked(target: str, service: str) -> str:
    """What the health service says, as a kubelet asks it."""
    with grpc.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        answer = check(HealthCheckRequest(service=service), timeout=10)
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))
