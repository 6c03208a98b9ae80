"""Model folders written for a test, and the few steps from such a folder to an executable."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

from penstock_runtime.backends.base import (
    AnyExecutable,
    Executable,
    LoadedModel,
    ModelSource,
    Placement,
    StreamingExecutable,
)
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.stream import ResponseStream

HEADER = """
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, NamedTuple, TypedDict
import numpy as np
from penstock_runtime.model_api import *
"""


def write_model(root: Path, text: str, **files: str) -> ModelSource:
    """Version 1 of a model whose model.py is this text; `files` are siblings without `.py`."""
    directory = root / "m" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.py").write_text(HEADER + dedent(text))
    for name, content in files.items():
        (directory / f"{name}.py").write_text(dedent(content))
    return source_of(directory)


def source_of(directory: Path, config: ModelConfig | None = None) -> ModelSource:
    """The source of a version directory under a model folder."""
    return ModelSource(config or ModelConfig(name="m"), 1, directory, directory.parent)


def load(source: ModelSource, backend: str = "") -> tuple[ModelConfig, LoadedModel]:
    """The completed configuration and the loaded model."""
    config = replace(source.config, backend=backend or source.config.backend)
    source = replace(source, config=config)
    found = default_registry().find(source)
    completed = found.complete(source)
    return completed, found.load(replace(source, config=completed))


@contextmanager
def executable(source: ModelSource, backend: str = "") -> Iterator[AnyExecutable]:
    """One instance on the CPU, closed with its model."""
    _, loaded = load(source, backend)
    try:
        made = loaded.executable(Placement("m_0_0"))
        try:
            yield made
        finally:
            made.close()
    finally:
        loaded.close()


def context(
    *wanted: str, stream: ResponseStream | None = None, **parameters: Any
) -> RequestContext:
    """The context of a request that asks for these outputs."""
    outputs = tuple(RequestedOutput(name) for name in wanted)
    request = InferRequest("m", (), id="r1", outputs=outputs, parameters=parameters)
    return RequestContext(request, stream or ResponseStream())


def run(
    source: ModelSource, inputs: Mapping[str, Any], *contexts: RequestContext, backend: str = ""
) -> dict[str, Any]:
    """The outputs of one batch of a freshly loaded model."""
    with executable(source, backend) as made:
        return dict(cast(Executable, made).execute(inputs, contexts or [context()]))


def responses(
    source: ModelSource, inputs: Mapping[str, Any], one: RequestContext | None = None
) -> list[dict[str, Any]]:
    """Every response of a freshly loaded decoupled model."""
    with executable(source) as made:
        streaming = cast(StreamingExecutable, made)
        return [dict(r) for r in streaming.stream(inputs, one or context())]


def start(source: ModelSource) -> None:
    """Everything that loading a model does."""
    _, loaded = load(source)
    try:
        loaded.executable(Placement("m_0")).close()
    finally:
        loaded.close()
