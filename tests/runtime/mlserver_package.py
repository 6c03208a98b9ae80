"""The package mlserver for tests: the real one where it is installed, else what a model and its
adapter use of it, written for the tests.

tests/interop runs the same laws in an environment that has the real one.
"""

import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

REAL = importlib.util.find_spec("mlserver") is not None


class Message:
    """A message that has the fields it is made with, and None for the others."""

    fields: tuple[str, ...] = ()

    def __init__(self, **values: Any) -> None:
        for name in self.fields:
            setattr(self, name, values.pop(name, None))
        assert not values


class InferenceRequest(Message):
    """One request."""

    fields = ("id", "parameters", "inputs", "outputs")


class InferenceResponse(Message):
    """One response."""

    fields = ("model_name", "model_version", "id", "parameters", "outputs")


class RequestInput(Message):
    """One tensor that comes."""

    fields = ("name", "shape", "datatype", "parameters", "data")


class ResponseOutput(Message):
    """One tensor that goes."""

    fields = ("name", "shape", "datatype", "parameters", "data")


class RequestOutput(Message):
    """One output that is asked for."""

    fields = ("name", "parameters")


class Parameters:
    """Parameters of any name."""

    content_type: str | None = None
    headers: Any = None

    def __init__(self, **values: Any) -> None:
        self.values = values
        for name, value in values.items():
            setattr(self, name, value)

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        return {k: v for k, v in self.values.items() if v is not None or not exclude_none}


class ModelSettings:
    """The settings of one model."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.name = document.get("name", "")
        self.parameters = types.SimpleNamespace(**document.get("parameters", {}))

    @classmethod
    def parse_file(cls, path: str) -> "ModelSettings":
        with open(path) as file:
            return cls(json.load(file))


class MLModel:
    """The base of every model."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.ready = False

    async def load(self) -> bool:
        return True

    async def unload(self) -> bool:
        return True

    async def predict(self, payload: Any) -> Any:
        raise NotImplementedError("predict() method not implemented")

    async def predict_stream(self, payloads: Any) -> Any:
        yield await self.predict(await anext(payloads))


model_name_var: ContextVar[str] = ContextVar("model_name")


@contextmanager
def model_context(settings: ModelSettings) -> Iterator[None]:
    """In here the model's name is known."""
    token = model_name_var.set(settings.name)
    try:
        yield
    finally:
        model_name_var.reset(token)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import mlserver` work, for the length of a test."""
    if REAL:
        return
    package = types.ModuleType("mlserver")
    package.__path__ = []
    messages, context = types.ModuleType("mlserver.types"), types.ModuleType("mlserver.context")
    for kind in (
        InferenceRequest,
        InferenceResponse,
        RequestInput,
        ResponseOutput,
        RequestOutput,
        Parameters,
    ):
        setattr(messages, kind.__name__, kind)
    vars(context).update(model_context=model_context, model_name_var=model_name_var)
    vars(package).update(
        MLModel=MLModel, ModelSettings=ModelSettings, types=messages, context=context
    )
    for module in (package, messages, context):
        monkeypatch.setitem(sys.modules, module.__name__, module)
