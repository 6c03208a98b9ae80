"""What the runtime says of its models, as the messages of the RPCs that ask for it."""

from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from penstock.config_text import config_message
from penstock.describe_queue import choice_message, queue_messages
from penstock_protos.inference import (
    InferBatchStatistics,
    InferResponseStatistics,
    InferStatistics,
    MemoryUsage,
    ModelConfigResponse,
    ModelMetadataResponse,
    ModelStatistics,
    ModelStatisticsResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
    StatisticDuration,
)
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.observability.snapshot import (
    BatchStatistics,
    Duration,
    ResponseStatistics,
    StatisticsSnapshot,
)

TensorMetadata = ModelMetadataResponse.TensorMetadata
ModelIndex = RepositoryIndexResponse.ModelIndex


class IndexEntry(Protocol):
    """One line of the repository index; the value of `state` is its name on the wire."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def version(self) -> str:
        """Its version, "" for the model as a whole."""

    @property
    def state(self) -> Enum:
        """What the version is doing."""

    @property
    def reason(self) -> str:
        """Why."""


def server_metadata(name: str, version: str, extensions: Iterable[str]) -> ServerMetadataResponse:
    """Name, version and enabled extensions of the server."""
    return ServerMetadataResponse(name=name, version=version, extensions=extensions)


PROPERTY = "property."
"""What the keys of parameters begin with that are told to callers, in ModelMetadata."""


def metadata_response(
    model_name: str, config: ModelConfig, versions: Iterable[int | str], platform: str = ""
) -> ModelMetadataResponse:
    """The tensors of a model as they travel: with a batch dimension of -1 where the model batches.

    `platform` is what the loaded model says of itself; else the configuration's platform or
    backend.
    """
    batched = config.max_batch_size > 0
    return ModelMetadataResponse(
        name=model_name,
        versions=[str(version) for version in versions],
        platform=platform or config.platform or config.backend,
        inputs=[_tensor(tensor, batched) for tensor in config.input],
        outputs=[_tensor(tensor, batched) for tensor in config.output],
        # Only what the model's owner says in so many words: MLServer's clients read this field as
        # another type.
        properties={
            key.removeprefix(PROPERTY): value.string_value
            for key, value in config.parameters.items()
            if key.startswith(PROPERTY)
        },
    )


def _tensor(tensor: ModelInput | ModelOutput, batched: bool) -> TensorMetadata:
    # The content of a shape tensor is one shape for the whole batch: it has no row per request.
    batch = (-1,) if batched and not tensor.is_shape_tensor else ()
    return TensorMetadata(
        name=tensor.name, datatype=tensor.data_type.value, shape=(*batch, *tensor.dims)
    )


def config_response(config: ModelConfig) -> ModelConfigResponse:
    """The whole configuration."""
    return ModelConfigResponse(config=config_message(config))


def index_response(entries: Iterable[IndexEntry]) -> RepositoryIndexResponse:
    """The repository index, in the order given."""
    return RepositoryIndexResponse(
        models=[
            ModelIndex(
                name=entry.name,
                version=entry.version,
                state=str(entry.state.value),
                reason=entry.reason,
            )
            for entry in entries
        ]
    )


def statistics_response(snapshots: Iterable[StatisticsSnapshot]) -> ModelStatisticsResponse:
    """The statistics of each version, in the order given."""
    return ModelStatisticsResponse(model_stats=[_statistics(snapshot) for snapshot in snapshots])


def _statistics(snapshot: StatisticsSnapshot) -> ModelStatistics:
    return ModelStatistics(
        name=snapshot.model,
        version=str(snapshot.version),
        last_inference=snapshot.last_inference_ms,
        inference_count=snapshot.inference_count,
        execution_count=snapshot.execution_count,
        inference_stats=_inference(snapshot),
        batch_stats=[_batch(batch) for batch in snapshot.batch_stats],
        memory_usage=[
            MemoryUsage(type=memory.kind, id=memory.id, byte_size=memory.byte_size)
            for memory in snapshot.memory_usage
        ],
        response_stats={
            index: _response(response) for index, response in snapshot.response_stats.items()
        },
        queue=queue_messages(snapshot.waiting),
        batch_choice=choice_message(snapshot.waiting.choice),
    )


def _inference(snapshot: StatisticsSnapshot) -> InferStatistics:
    return InferStatistics(
        success=_duration(snapshot.success),
        fail=_duration(snapshot.fail),
        queue=_duration(snapshot.queue),
        compute_input=_duration(snapshot.compute_input),
        compute_infer=_duration(snapshot.compute_infer),
        compute_output=_duration(snapshot.compute_output),
        cache_hit=_duration(snapshot.cache_hit),
        cache_miss=_duration(snapshot.cache_miss),
    )


def _batch(batch: BatchStatistics) -> InferBatchStatistics:
    return InferBatchStatistics(
        batch_size=batch.batch_size,
        compute_input=_duration(batch.compute_input),
        compute_infer=_duration(batch.compute_infer),
        compute_output=_duration(batch.compute_output),
    )


def _response(response: ResponseStatistics) -> InferResponseStatistics:
    return InferResponseStatistics(
        compute_infer=_duration(response.compute_infer),
        compute_output=_duration(response.compute_output),
        success=_duration(response.success),
        fail=_duration(response.fail),
        empty_response=_duration(response.empty_response),
        cancel=_duration(response.cancel),
    )


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=duration.ns)
