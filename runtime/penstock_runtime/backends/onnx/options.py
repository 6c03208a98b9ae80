"""How a configuration wants a model executed by ONNX Runtime, as values: threads, optimisations,
providers, libraries. Pure; the names are those of Triton's backend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument

MAX_THREADS = 1024
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# What an accelerator is called in a configuration, and the provider that it stands for.
PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "cuda": CUDA,
        "tensorrt": "TensorrtExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
    }
)
# Parameters of accelerators and what the provider calls them. Nothing that names a file: such an
# option could write one anywhere, or load code.
_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cuda": {
            "gpu_mem_limit": "gpu_mem_limit",
            "arena_extend_strategy": "arena_extend_strategy",
            "cudnn_conv_algo_search": "cudnn_conv_algo_search",
            "do_copy_in_default_stream": "do_copy_in_default_stream",
            "use_tf32": "use_tf32",
        },
        "tensorrt": {
            "max_workspace_size_bytes": "trt_max_workspace_size",
            "trt_max_partition_iterations": "trt_max_partition_iterations",
            "trt_min_subgraph_size": "trt_min_subgraph_size",
            "trt_builder_optimization_level": "trt_builder_optimization_level",
        },
        "openvino": {"num_of_threads": "num_of_threads", "num_streams": "num_streams"},
    }
)
_PRECISIONS = {"FP32": "", "FP16": "trt_fp16_enable", "INT8": "trt_int8_enable"}
# Levels of `optimization { graph { level } }`, as Triton's backend reads them.
LEVELS: Mapping[int, str] = MappingProxyType(
    {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
)
# Entries of a session that a parameter of the same name may set.
_ENTRIES = (
    "session.intra_op.allow_spinning",
    "session.inter_op.allow_spinning",
    "session.set_denormal_as_zero",
    "session.use_device_allocator_for_initializers",
    "session.disable_prepacking",
    "session.dynamic_block_base",
)
# Threads that spin burn a core between two executions, and there are other models.
_QUIET = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A provider to execute with, and its options."""

    name: str
    options: Mapping[str, str]

    @property
    def provider(self) -> str:
        """What ONNX Runtime calls it."""
        return PROVIDERS[self.name]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Everything that a session is opened with; 0 threads: as many as the machine advises."""

    intra_op_threads: int
    inter_op_threads: int
    parallel: bool
    level: str
    memory_arena: bool
    memory_pattern: bool
    entries: Mapping[str, str]
    on_cpu: tuple[Accelerator, ...]
    on_gpu: tuple[Accelerator, ...]
    libraries: tuple[str, ...]


def read_options(config: ModelConfig) -> SessionOptions:
    """What the configuration asks for; InvalidArgument names the parameter that is wrong."""
    given = _mapping(config.extra.get("optimization"))
    wanted = _mapping(given.get("execution_accelerators"))
    return SessionOptions(
        intra_op_threads=_number(config, "intra_op_thread_count", MAX_THREADS),
        inter_op_threads=_number(config, "inter_op_thread_count", MAX_THREADS),
        parallel=_number(config, "execution_mode", 1) == 1,
        level=_level(config, given),
        memory_arena=_number(config, "enable_mem_arena", 1, 1) == 1,
        memory_pattern=_number(config, "enable_mem_pattern", 1, 1) == 1,
        entries=_QUIET | {key: value for key in _ENTRIES if (value := config.parameter(key))},
        on_cpu=_accelerators(config, wanted, "cpu_execution_accelerator", ("openvino",)),
        on_gpu=_accelerators(config, wanted, "gpu_execution_accelerator", ("cuda", "tensorrt")),
        libraries=_libraries(config),
    )


def _number(config: ModelConfig, key: str, most: int, default: int = 0) -> int:
    text = config.parameter(key).strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) > most:
        raise InvalidArgument(
            f"model '{config.name}': parameter {key} is {text[:32]!r}, expected 0 to {most}"
        )
    return int(text)


def _level(config: ModelConfig, given: Mapping[str, Any]) -> str:
    level = int(_mapping(given.get("graph")).get("level", 0))
    if level not in LEVELS:
        raise InvalidArgument(
            f"model '{config.name}': optimization.graph.level is {level}, expected -1 (basic),"
            " 0 (all), 1 (extended) or 2 (none)"
        )
    return LEVELS[level]


def _accelerators(
    config: ModelConfig, wanted: Mapping[str, Any], field: str, known: tuple[str, ...]
) -> tuple[Accelerator, ...]:
    found = []
    for given in wanted.get(field, ()):
        name = str(_mapping(given).get("name", ""))
        if name not in known:
            raise InvalidArgument(
                f"model '{config.name}': {field} is {name[:32]!r}, expected one of"
                f" {', '.join(known)}"
            )
        parameters = _mapping(_mapping(given).get("parameters"))
        found.append(Accelerator(name, _translated(config, name, parameters)))
    return tuple(found)


def _translated(config: ModelConfig, name: str, given: Mapping[str, Any]) -> Mapping[str, str]:
    options: dict[str, str] = {}
    known = _OPTIONS[name]
    for key, value in given.items():
        if name == "tensorrt" and key == "precision_mode" and str(value) in _PRECISIONS:
            if option := _PRECISIONS[str(value)]:
                options[option] = "1"
        elif key in known:
            options[known[key]] = str(value)
        else:
            raise InvalidArgument(
                f"model '{config.name}': accelerator {name} has no parameter {key[:32]!r} with the"
                f" value {str(value)[:32]!r}, only {', '.join(known)}"
            )
    return MappingProxyType(options)


def _libraries(config: ModelConfig) -> tuple[str, ...]:
    given = _mapping(config.extra.get("model_operations"))
    return tuple(str(name) for name in given.get("op_library_filename", ()))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
