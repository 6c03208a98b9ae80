"""A model of a repository executed through its backend, without scheduler and server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.config_text import parse_config_text
from penstock_runtime.backends.base import (
    AnyExecutable,
    Executable,
    ModelSource,
    Placement,
    StreamingExecutable,
)
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import to_host


@dataclass(frozen=True, slots=True)
class DirectModel:
    """A loaded model: its complete configuration and one instance on the CPU."""

    config: ModelConfig
    executable: AnyExecutable

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """The outputs of one batch as numpy arrays."""
        assert isinstance(self.executable, Executable)
        outputs = self.executable.execute(inputs, [_context()])
        return {name: to_host(array) for name, array in outputs.items()}

    def responses(self, **inputs: Any) -> list[dict[str, Any]]:
        """All responses of a decoupled model to one request."""
        assert isinstance(self.executable, StreamingExecutable)
        return [dict(response) for response in self.executable.stream(inputs, _context())]


def _context() -> RequestContext:
    return RequestContext(InferRequest("direct", ()), ResponseStream())


@contextmanager
def opened(root: Path) -> Iterator[DirectModel]:
    """Version 1 of the model in this folder, closed afterwards."""
    path = root / "config.pbtxt"
    written = parse_config_text(path.read_bytes()) if path.exists() else ModelConfig()
    registry = default_registry()
    source = ModelSource(replace(written, name=root.name), 1, root / "1", root)
    config = registry.find(source).complete(source)
    complete = replace(source, config=config)
    loaded = registry.find(complete).load(complete)
    executable = loaded.executable(Placement(f"{root.name}_0"))
    try:
        yield DirectModel(config, executable)
    finally:
        executable.close()
        loaded.close()
