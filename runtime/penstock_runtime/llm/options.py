"""What the `parameters` of a language model's configuration say of its engine."""

from dataclasses import dataclass, fields
from typing import Any

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The engine of one instance. Sizes are in tokens unless they say otherwise; 0 means "chosen by
    the engine".

    `kv_cache_tokens` is the size of the pool, else `kv_cache_bytes` decides; `watermark` is the
    share of it that is kept free when a request is admitted; `max_batched_tokens` bounds a step,
    `long_prefill_cap` one sequence's part of it. `tenant_header` and `salt_header` name the
    (forwarded) metadata that tell a caller's tenant and cache salt; `price_per_hour` is what the
    machine costs, for the cost that a response tells.
    """

    dtype: str = "auto"
    device: str = ""
    task: str = "auto"
    quantization: str = "none"
    kv_cache_dtype: str = "auto"
    block_size: int = BLOCK_SIZE
    kv_cache_tokens: int = 0
    kv_cache_bytes: int = 0
    max_model_len: int = 0
    max_num_seqs: int = 64
    max_batched_tokens: int = 0
    long_prefill_cap: int = 0
    max_queued_requests: int = 1024
    max_queued_tokens: int = 0
    max_output_tokens: int = 0
    default_max_tokens: int = 0
    default_timeout_s: float = 0.0
    watermark: float = 0.01
    prefix_caching: bool = True
    policy: str = "fcfs"
    tenant_header: str = ""
    salt_header: str = ""
    echo: bool = False
    speculative_method: str = "none"
    speculative_tokens: int = 4
    draft_model: str = ""
    adapters: str = ""
    max_loras: int = 8
    max_lora_rank: int = 64
    cpu_kernels: str = "auto"
    cuda_kernels: str = "auto"
    threads: int = 0
    cuda_graphs: bool = True
    async_steps: str = "auto"
    price_per_hour: float = 0.0
    chat_template: str = ""
    generation_config: str = "auto"


OPTION_NAMES = tuple(field.name for field in fields(EngineOptions))


def read_options(config: ModelConfig) -> EngineOptions:
    """The options of a configuration; InvalidArgument names a parameter whose value is no good."""
    values: dict[str, Any] = {}
    for field in fields(EngineOptions):
        if field.name in config.parameters:
            text = config.parameter(field.name).strip()
            values[field.name] = _read(config.name, field.name, text, field.default)
    return EngineOptions(**values)


def _read(model: str, name: str, text: str, default: object) -> object:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise InvalidArgument(
                f"model '{model}': {name} is {text[:64]!r}, expected true or false"
            )
        return text.lower() in ("true", "1")
    whole = isinstance(default, int)
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 62:
        kind = "an integer" if whole else "a number"
        raise InvalidArgument(f"model '{model}': {name} is {text[:64]!r}, expected {kind} from 0")
    return number
