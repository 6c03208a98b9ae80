"""The configuration that a model-settings.json stands for.

MLServer's shapes have the batch dimension in them, and its adaptive batching joins requests along
it: a model that asks for batching gets the dynamic batcher, any other one gets whole shapes.
"""

from collections.abc import Sequence
from dataclasses import replace

from penstock_runtime.backends.mlserver.settings import SETTINGS_FILE, MetadataTensor, Settings
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, TransactionPolicy
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument


def complete_config(
    config: ModelConfig, settings: Settings, backend: str, *, streams: bool
) -> ModelConfig:
    """The configuration, with everything that it leaves open taken from the settings; `streams`
    says that the model's class answers with streams only.
    """
    config = replace(config, backend=config.backend or backend)
    if settings.batches and not config.max_batch_size and not config.input and not streams:
        config = replace(
            config,
            max_batch_size=settings.max_batch_size,
            dynamic_batching=config.dynamic_batching
            or DynamicBatching(max_queue_delay_microseconds=round(settings.batch_wait_s * 1e6)),
        )
    return replace(
        config,
        input=config.input
        or tuple(
            ModelInput(tensor.name, tensor.datatype, _dims(config, tensor))
            for tensor in _named(config, "inputs", settings.inputs)
        ),
        output=config.output
        or tuple(
            ModelOutput(tensor.name, tensor.datatype, _dims(config, tensor))
            for tensor in _named(config, "outputs", settings.outputs)
        ),
        model_transaction_policy=TransactionPolicy(config.decoupled or streams),
    )


def _named(
    config: ModelConfig, what: str, tensors: Sequence[MetadataTensor]
) -> Sequence[MetadataTensor]:
    if tensors:
        return tensors
    raise InvalidArgument(
        f"model '{config.name}': {SETTINGS_FILE} has no {what}, and a request is held against them;"
        f' add for instance "{what}": [{{"name": "x", "datatype": "FP32", "shape": [-1, 4]}}]'
    )


def _dims(config: ModelConfig, tensor: MetadataTensor) -> tuple[int, ...]:
    if not config.max_batch_size:
        return tensor.shape
    if tensor.shape[:1] != (-1,):
        raise InvalidArgument(
            f"model '{config.name}': requests are batched along the first dimension, and that of"
            f" '{tensor.name}' in {SETTINGS_FILE} is {list(tensor.shape[:1])}, expected -1"
        )
    return tensor.shape[1:]
