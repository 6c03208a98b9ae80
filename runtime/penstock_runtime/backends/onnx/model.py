"""An ONNX model in memory: one session per device, shared by all instances there.

A session may be asked by any number of threads at once. This is the only file that opens one.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.files import confined
from penstock_runtime.backends.host import cpu_threads, release_memory
from penstock_runtime.backends.onnx.completion import (
    OnnxSignature,
    OnnxTensor,
    check_signature,
)
from penstock_runtime.backends.onnx.files import OnnxFiles
from penstock_runtime.backends.onnx.instance import OnnxExecutable, OnnxPlan
from penstock_runtime.backends.onnx.options import (
    CPU,
    CUDA,
    Accelerator,
    SessionOptions,
    read_options,
)
from penstock_runtime.errors import PenstockError, Unsupported

_log = logging.getLogger("penstock.model")
# Failures come as exceptions; what it would print could hold paths and what clients sent.
_FATAL_ONLY = 4


class LoadedOnnx:
    """One version of an ONNX model."""

    def __init__(self, source: ModelSource, files: OnnxFiles) -> None:
        self._source = source
        self._files = files
        self._options = read_options(source.config)
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance; the first one on a device opens the session there."""
        session = self._session(placement)
        plan = OnnxPlan(self._source.config, signature_of(session))
        return OnnxExecutable(plan, session)

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of the model's files per device that holds it: about what its weights take."""
        return dict.fromkeys(tuple(self._sessions), self._files.size)

    def close(self) -> None:
        """Drop the sessions and return their memory."""
        self._sessions.clear()
        release_memory()

    def _session(self, placement: Placement) -> Any:
        # Under the lock, so that of several instances that start at once only one loads.
        with self._lock:
            device = placement.device
            if device not in self._sessions:
                providers = _providers(self._source.config.name, self._options, placement)
                session = open_session(self._source, self._files, self._options, providers)
                check_signature(self._source.config, signature_of(session))
                self._sessions[device] = session
            return self._sessions[device]


def load(source: ModelSource, files: OnnxFiles) -> LoadedOnnx:
    """The model; nothing but its options is read before the first instance asks."""
    return LoadedOnnx(source, files)


def has_cuda() -> bool:
    """Whether ONNX Runtime was built for CUDA."""
    return CUDA in onnxruntime.get_available_providers()


def read_signature(source: ModelSource, files: OnnxFiles) -> OnnxSignature:
    """What the model says of its inputs and outputs."""
    options = read_options(source.config)
    return signature_of(open_session(source, files, options, [(CPU, {})]))


def signature_of(session: Any) -> OnnxSignature:
    """The inputs and outputs of a session; inputs with a value of their own are optional."""
    return OnnxSignature(
        (
            *(_tensor(found) for found in session.get_inputs()),
            *(_tensor(found, optional=True) for found in session.get_overridable_initializers()),
        ),
        tuple(_tensor(found) for found in session.get_outputs()),
    )


def _tensor(found: Any, *, optional: bool = False) -> OnnxTensor:
    dims = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in found.shape)
    return OnnxTensor(found.name, found.type, dims, optional or found.type.startswith("optional("))


def open_session(
    source: ModelSource,
    files: OnnxFiles,
    options: SessionOptions,
    providers: Sequence[tuple[str, Mapping[str, str]]],
) -> Any:
    """A session of the model's file. Raises Internal with what ONNX Runtime says of it."""
    settings = _settings(options)
    libraries = [confined(source, name) for name in options.libraries]
    try:
        for library in libraries:
            settings.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(
            str(files.path),
            settings,
            providers=[(name, dict(values)) for name, values in providers],
        )
    except PenstockError:
        raise
    except Exception as error:
        raise load_failure(error, source.config.name, files.path.name) from error
    _check_providers(source.config.name, session, [name for name, _ in providers])
    return session


def _check_providers(model: str, session: Any, asked: Sequence[str]) -> None:
    """A provider that cannot start is left out without an error: the CPU would do its work."""
    missing = [name for name in asked if name not in session.get_providers()]
    if missing:
        raise Unsupported(
            f"model '{model}': {missing[0]} of ONNX Runtime did not start here; its libraries may"
            " be missing or of another version",
            reason="NOT_AVAILABLE",
        )


def _settings(options: SessionOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = options.intra_op_threads or cpu_threads()
    settings.inter_op_num_threads = options.inter_op_threads or cpu_threads()
    mode = onnxruntime.ExecutionMode
    settings.execution_mode = mode.ORT_PARALLEL if options.parallel else mode.ORT_SEQUENTIAL
    level = getattr(onnxruntime.GraphOptimizationLevel, options.level)
    settings.graph_optimization_level = level
    settings.enable_cpu_mem_arena = options.memory_arena
    settings.enable_mem_pattern = options.memory_pattern
    for key, value in options.entries.items():
        settings.add_session_config_entry(key, value)
    return settings


def _providers(
    model: str, options: SessionOptions, placement: Placement
) -> list[tuple[str, Mapping[str, str]]]:
    """The providers of an instance, the one that is asked first in front; the CPU comes last."""
    if placement.kind != "KIND_GPU":
        return [*_asked(model, options.on_cpu, {}), (CPU, {})]
    device = {"device_id": str(placement.device_id)}
    asked = _asked(model, options.on_gpu, device)
    if not any(name == CUDA for name, _ in asked):
        asked += _asked(model, (Accelerator("cuda", {}),), device)
    return [*asked, (CPU, {})]


def _asked(
    model: str, accelerators: Sequence[Accelerator], device: Mapping[str, str]
) -> list[tuple[str, Mapping[str, str]]]:
    present = onnxruntime.get_available_providers()
    for accelerator in accelerators:
        if accelerator.provider not in present:
            raise Unsupported(
                f"model '{model}' needs {accelerator.provider} of ONNX Runtime, the installed one"
                f" has {', '.join(present)}; install a build with it (onnxruntime-gpu,"
                " onnxruntime-openvino), or leave the accelerator or KIND_GPU out",
                reason="NOT_AVAILABLE",
            )
    return [(found.provider, {**device, **found.options}) for found in accelerators]
