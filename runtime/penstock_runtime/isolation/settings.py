"""What the parameters of a configuration say of a model's process."""

import math
from dataclasses import dataclass

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument

HEARTBEAT = "ISOLATION_HEARTBEAT_SECONDS"
EXECUTION = "ISOLATION_EXECUTION_SECONDS"
MEMORY = "ISOLATION_SHARED_MEMORY_BYTES"
STARTS = "ISOLATION_FAILED_STARTS"
PROCESS = "KIND_PROCESS"


@dataclass(frozen=True, slots=True)
class Settings:
    """`heartbeat_s` without a sign of life, or `execution_s` of one execution (0: any), and the
    process is ended; `memory_bytes` may be shared each way; after so many `failed_starts` in a row
    nobody tries again.
    """

    heartbeat_s: float = 60.0
    execution_s: float = 0.0
    memory_bytes: int = 1 << 30
    failed_starts: int = 10


def is_isolated(config: ModelConfig) -> bool:
    """Whether the instances of a model are processes."""
    return any(group.kind == PROCESS for group in config.instance_group)


def settings_of(config: ModelConfig) -> Settings:
    """What the parameters say; InvalidArgument for what is no number in its range."""
    usual = Settings()
    return Settings(
        _number(config, HEARTBEAT, usual.heartbeat_s, 0.1, 86400.0),
        _number(config, EXECUTION, usual.execution_s, 0.0, 86400.0),
        int(_number(config, MEMORY, usual.memory_bytes, 0, 1 << 48)),
        int(_number(config, STARTS, usual.failed_starts, 1, 1 << 20)),
    )


def _number(config: ModelConfig, key: str, usual: float, low: float, high: float) -> float:
    text = config.parameter(key, "")
    if not text:
        return usual
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise InvalidArgument(
            f"model '{config.name}': parameter {key} is {text[:64]!r}, expected a number of"
            f" {low:g}..{high:g}"
        )
    return number
