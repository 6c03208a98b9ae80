"""Features that are built apart hold together: ensembles, sequences, Triton models, shared memory,
the response cache and both ports.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tests.e2e import sequence_models
from tests.e2e.ensemble_models import ensemble, step, tensor, write_ensemble
from tests.e2e.regions import output, region
from tests.e2e.running import Running, ServerThread
from tests.rest.serving import address, http_options
from tests.triton_python.serving import MODELS as TRITON_MODELS
from tests.triton_python.serving import tensors
from tritonclient.utils import InferenceServerException

A = np.array([[1.0, 2.0]], np.float32)
B = np.array([[10.0, 20.0]], np.float32)
KEPT = "max_batch_size: 4\nresponse_cache { enable: true }\n"
ENSEMBLES = {
    # What a sequence has sent so far, added up.
    "running": ensemble(
        [tensor("IN", "1", "INT32")],
        [tensor("OUT", "1", "INT32")],
        [step("sum", {"INPUT": "IN"}, {"OUTPUT": "OUT"})],
        KEPT,
    ),
    "sums": ensemble(
        [tensor("IN"), tensor("MORE")],
        [tensor("PLUS"), tensor("TWICE")],
        [
            step("add_sub", {"INPUT0": "IN", "INPUT1": "MORE"}, {"OUTPUT0": "PLUS"}),
            step("add_sub", {"INPUT0": "PLUS", "INPUT1": "PLUS"}, {"OUTPUT0": "TWICE"}),
        ],
        KEPT,
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with all of it."""
    root = tmp_path_factory.mktemp("combinations")
    sequence_models.write(root, "sum", sequence_models.SUM_CONFIG, sequence_models.SUM)
    for name, config in ENSEMBLES.items():
        write_ensemble(root, name, config)
    settings = http_options(
        [root, TRITON_MODELS],
        model_control_mode="explicit",
        load_model=("running", "sums"),
        allow_client_shm=True,
        cache_config=("local,size=1000000",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client over gRPC."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


@pytest.fixture
def http_client(running: Running) -> Iterator[Any]:
    """One over HTTP."""
    with triton_http.InferenceServerClient(address(running)) as made:
        yield made


def add(client: Any, value: int, identity: int | str, flags: str = "") -> int:
    """One step of a sequence of the ensemble."""
    module = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton
    given = module.InferInput("IN", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[value]], np.int32))
    answer = client.infer(
        "running",
        [given],
        sequence_id=identity,
        sequence_start="S" in flags,
        sequence_end="E" in flags,
    )
    return int(answer.as_numpy("OUT")[0, 0])


def test_a_sequence_goes_on_inside_an_ensemble_over_either_port(
    client: Any, http_client: Any
) -> None:
    """Equal requests of a sequence are not answered out of the cache."""
    found = [add(client, 1, 5, "S"), add(http_client, 1, 5), add(client, 1, 5)]
    found += [add(http_client, 2, "five", "S"), add(client, 2, "five", "E"), add(client, 1, 5, "E")]

    assert found == [1, 2, 3, 2, 4, 4]
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        add(http_client, 1, 5)


def test_a_sequence_inside_an_ensemble_outlives_the_version_of_its_step(client: Any) -> None:
    """Loaded again, and then unloaded: it ends where it began."""
    add(client, 1, 6, "S")

    client.load_model("sum")
    again = add(client, 1, 6)
    client.unload_model("sum")
    ends = add(client, 1, 6, "E")
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        add(client, 1, 7, "S")
    client.load_model("sum")

    assert (again, ends) == (2, 3)
    assert add(client, 1, 7, "SE") == 1


def test_triton_models_of_an_ensemble_read_and_write_shared_memory(client: Any) -> None:
    """Answers out of the cache are written as well."""
    for _ in range(2):
        with region(client, 8) as plus, region(client, 8) as twice:
            outputs = [output("PLUS", plus.name, 8), output("TWICE", twice.name, 8)]
            client.infer("sums", tensors({"IN": A, "MORE": B}), outputs=outputs)

            assert np.array_equal(plus.get(np.float32, 1, 2), A + B)
            assert np.array_equal(twice.get(np.float32, 1, 2), 2 * (A + B))
