"""The configuration that a TorchServe model stands for.

TorchServe knows no tensors: a request is bytes. Unless a configuration says otherwise there is one
input `data` and one output `output`, each one text or JSON a row, and each row is one of
TorchServe's requests.
"""

from dataclasses import replace

from penstock_runtime.backends.torchserve.settings import Settings
from penstock_runtime.config import InstanceGroup, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType

INPUT = "data"
OUTPUT = "output"


def complete_config(config: ModelConfig, settings: Settings, backend: str) -> ModelConfig:
    """The configuration, with everything that it leaves open taken from the settings."""
    config = replace(config, backend=config.backend or backend)
    if not config.max_batch_size and not config.input:
        config = replace(
            config,
            max_batch_size=settings.batch_size,
            dynamic_batching=config.dynamic_batching or _batching(settings),
        )
    return replace(
        config,
        input=config.input or (ModelInput(INPUT, DataType.BYTES, (1,)),),
        output=config.output or (ModelOutput(OUTPUT, DataType.BYTES, (1,)),),
        instance_group=config.instance_group or _instances(settings),
    )


def _batching(settings: Settings) -> DynamicBatching | None:
    if settings.batch_size == 1:
        return None
    return DynamicBatching(max_queue_delay_microseconds=settings.batch_delay_ms * 1000)


def _instances(settings: Settings) -> tuple[InstanceGroup, ...]:
    if settings.workers == 1 and not settings.on_cpu:
        return ()
    kind = "KIND_CPU" if settings.on_cpu else "KIND_AUTO"
    return (InstanceGroup(count=settings.workers, kind=kind),)
