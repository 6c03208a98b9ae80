"""Models written for a test, in a runtime without a server around it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

from penstock.config_text import parse_config_text
from penstock_runtime.assembly import open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.repository import ModelRepository
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

HEADER = """
import asyncio, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

def value(request, name="X"):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

def answer(array, name="Y"):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.asarray(array, np.float32))])

def call(model, array, **more):
    tensors = [pb_utils.Tensor("X", np.asarray(array, np.float32))]
    names = ["Y"]
    return pb_utils.InferenceRequest(
        model_name=model, inputs=tensors, requested_output_names=names, **more
    )
"""
PLAIN = """
backend: "python"
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
DECOUPLED = PLAIN + "model_transaction_policy { decoupled: true }\n"


class House:
    """A repository with these models, and the core that serves it."""

    def __init__(self, root: Path, custom: CustomMetrics, *, rated: bool = False) -> None:
        self.root = root
        options = RepositoryOptions(
            roots=(root,),
            control_mode=ControlMode.EXPLICIT,
            startup_models=("*",),
            drain_timeout_s=1.0,
            settle_seconds=0.0,
            load_settle_seconds=0.0,
        )
        self.custom = custom
        self.repository: ModelRepository[Any] = open_repository(
            options,
            {"config.pbtxt": parse_config_text},
            custom=custom,
            rate_totals={} if rated else None,
        )
        self.core = InferenceCore(self.repository)

    def submit(self, model: str, *values: float, **more: Any) -> ResponseStream:
        """Send a request; the stream of its responses."""
        array = np.array(values, np.float32)
        if more.pop("batched", False):
            array = array[None]
        stream = ResponseStream()
        seconds = more.pop("seconds", None)
        if seconds is not None:
            more["deadline_ns"] = time.monotonic_ns() + int(seconds * 1e9)
        self.core.infer(InferRequest(model, (tensor("X", array),), **more), stream)
        return stream

    def ask(self, model: str, *values: float, **more: Any) -> list[InferResponse]:
        """Send a request and wait for its responses, the empty ones left out."""
        return [r for r in self.submit(model, *values, **more).collect(20) if not r.empty]

    def number(self, model: str, *values: float, **more: Any) -> float:
        """The first number of the one answer."""
        (response,) = self.ask(model, *values, **more)
        return float(response.outputs[0].numpy().reshape(-1)[0])

    def row(self, model: str, *values: float, **more: Any) -> float:
        """The same of a model with a batch dimension."""
        return self.number(model, *values, batched=True, **more)

    def write(self, name: str, text: str, config: str = PLAIN) -> None:
        """The files of a model."""
        folder = self.root / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(HEADER + dedent(text))
        (self.root / name / "config.pbtxt").write_text(config)


@contextmanager
def house(
    root: Path, /, *, rated: bool = False, **models: str | tuple[str, str]
) -> Iterator[House]:
    """A house with these models: their code, or code and configuration; with the rate limiter if
    `rated`.
    """
    made = House(root, CustomMetrics(), rated=rated)
    texts: Mapping[str, tuple[str, str]] = {
        name: given if isinstance(given, tuple) else (given, PLAIN)
        for name, given in models.items()
    }
    for name, (text, config) in texts.items():
        made.write(name, text, config)
    made.repository.start()
    try:
        yield made
    finally:
        made.core.stop(5.0)
