"""Laws of the answers that describe the server, its models and what they have done."""

from enum import Enum
from typing import NamedTuple

from hypothesis import given
from tests.config_strategies import configs
from tritonclient.grpc import model_config_pb2, service_pb2

from penstock.config_text import config_from_message
from penstock.describe import (
    config_response,
    index_response,
    metadata_response,
    server_metadata,
    statistics_response,
)
from penstock_protos.model_config import ModelConfig as ModelConfigMessage
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_reader import read_config
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming

CONFIG = {
    "name": "m",
    "backend": "python",
    "max_batch_size": 8,
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [3, -1]},
        {"name": "shape", "data_type": "TYPE_INT32", "dims": [2], "is_shape_tensor": True},
    ],
    "output": [{"name": "y", "data_type": "TYPE_STRING", "dims": [1]}],
}


class State(Enum):
    """A state as the repository has it."""

    READY = "READY"
    NEVER_LOADED = ""


class Entry(NamedTuple):
    """A line of the repository index."""

    name: str
    version: str
    state: State
    reason: str = ""


def test_properties_of_a_model_are_what_its_owner_says_in_so_many_words() -> None:
    """Parameters that begin with `property.`, as KServe's metadata has them; no others are told."""
    parameters = {
        "property.team": {"string_value": "vision"},
        "weights": {"string_value": "/somewhere/inside"},
    }
    config = read_config({**CONFIG, "parameters": parameters})

    told = metadata_response("m", config, [1])
    plain = metadata_response("m", read_config(CONFIG), [1])

    assert dict(told.properties) == {"team": "vision"}
    assert not plain.properties
    assert service_pb2.ModelMetadataResponse.FromString(told.SerializeToString()).name == "m"


def test_server_metadata_says_what_it_is_told() -> None:
    """Name, version and the enabled extensions in order."""
    data = server_metadata("triton", "2.0", ["statistics", "trace"]).SerializeToString()

    seen = service_pb2.ServerMetadataResponse.FromString(data)

    assert (seen.name, seen.version) == ("triton", "2.0")
    assert list(seen.extensions) == ["statistics", "trace"]


def test_shapes_of_a_model_that_batches_begin_with_a_wildcard() -> None:
    """Each tensor as a request carries it; a shape tensor has no batch dimension."""
    data = metadata_response("m", read_config(CONFIG), [1, 3]).SerializeToString()

    seen = service_pb2.ModelMetadataResponse.FromString(data)

    assert (seen.name, list(seen.versions), seen.platform) == ("m", ["1", "3"], "python")
    assert [(one.name, one.datatype, list(one.shape)) for one in seen.inputs] == [
        ("x", "FP32", [-1, 3, -1]),
        ("shape", "INT32", [2]),
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in seen.outputs] == [
        ("y", "BYTES", [-1, 1])
    ]


def test_shapes_of_a_model_without_batches_are_its_dims() -> None:
    """Nothing is put in front."""
    config = read_config({**CONFIG, "max_batch_size": 0})

    response = metadata_response("m", config, ["1"], platform="torch")

    assert list(response.inputs[0].shape) == [3, -1]
    assert response.platform == "torch"


@given(configs())
def test_a_stock_client_reads_the_configuration_of_the_rpc(config: ModelConfig) -> None:
    """Field for field what was loaded."""
    data = config_response(config).SerializeToString()

    seen: model_config_pb2.ModelConfig = service_pb2.ModelConfigResponse.FromString(data).config

    assert config_from_message(ModelConfigMessage.FromString(seen.SerializeToString())) == config


def test_the_index_keeps_its_order_and_names_states_as_the_wire_does() -> None:
    """A model that was never loaded has an empty state."""
    entries = [Entry("b", "2", State.READY), Entry("a", "", State.NEVER_LOADED, "why")]

    data = index_response(entries).SerializeToString()

    seen = service_pb2.RepositoryIndexResponse.FromString(data).models
    assert [(one.name, one.version, one.state, one.reason) for one in seen] == [
        ("b", "2", "READY", ""),
        ("a", "", "", "why"),
    ]


def test_statistics_arrive_as_they_were_counted() -> None:
    """Counts and nanoseconds of requests, batches, responses and memory."""
    statistics = ModelStatistics("m", 2, wall_clock_ns=lambda: 5_000_000)
    statistics.record_batch(3, [RequestTiming(90, 10, 1), RequestTiming(80, 20, 2)], 1, 2, 3)
    statistics.record_response(0, 7, 8, "success", 9)
    statistics.set_memory({"cpu": 100, "cuda:1": 200})

    data = statistics_response([statistics.snapshot()]).SerializeToString()

    (seen,) = service_pb2.ModelStatisticsResponse.FromString(data).model_stats
    assert (seen.name, seen.version, seen.last_inference) == ("m", "2", 5)
    assert (seen.inference_count, seen.execution_count) == (3, 1)
    stats = seen.inference_stats
    assert (stats.success.count, stats.success.ns) == (2, 170)
    assert (stats.queue.count, stats.queue.ns) == (2, 30)
    assert (stats.fail.count, stats.cache_hit.count) == (0, 0)
    (batch,) = seen.batch_stats
    assert (batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) == (3, 1, 2)
    assert seen.response_stats["0"].success.count == 1
    memory = [(one.type, one.id, one.byte_size) for one in seen.memory_usage]
    assert memory == [("CPU", 0, 100), ("GPU", 1, 200)]
