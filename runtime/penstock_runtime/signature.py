"""Reads a model's signature: the tensors that a function or class takes and gives, off its type
annotations.

It only looks at Python objects; what the configuration adds is settled in backends.completion.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model_api import SETTINGS, ModelSettings, make_settings
from penstock_runtime.signature_annotations import (
    ContextUse,
    Field,
    OutputForm,
    context_use,
    evaluate,
    is_stream,
    read_input,
    read_outputs,
)


class CallKind(Enum):
    """What calling the model gives: its outputs, or an iterator of them, now or awaited."""

    PLAIN = "none"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"
    COROUTINE = "coroutine"

    @property
    def streams(self) -> bool:
        """Whether one call gives any number of responses."""
        return self in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR)

    @property
    def is_async(self) -> bool:
        """Whether the call needs an event loop."""
        return self in (CallKind.ASYNC_GENERATOR, CallKind.COROUTINE)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model's code says of itself.

    `inputs` are its parameters in order; `outputs` are empty when the return annotation is missing
    (`form` UNKNOWN). `open_inputs` tells of a `**` parameter that takes whatever the configuration
    names. `context_parameter` is "" when the model does not ask for its context.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    form: OutputForm
    kind: CallKind
    settings: ModelSettings
    open_inputs: bool = False
    context_parameter: str = ""
    context_use: ContextUse = ContextUse.NONE

    @property
    def max_batch_size(self) -> int:
        """What the code says of the batch size; 0 leaves it to the configuration."""
        return self.settings.max_batch_size

    @property
    def wants_context(self) -> bool:
        """Whether a parameter takes the request's context."""
        return self.context_use is not ContextUse.NONE


def method_of(target: type) -> str:
    """The name of the method that answers a request: predict, or else __call__."""
    for name in ("predict", "__call__"):
        # Asked of the classes one by one: every class is callable by its metaclass.
        if any(vars(base).get(name) is not None for base in target.__mro__):
            return name
    raise InvalidArgument(
        f"class {target.__name__} has neither 'predict' nor '__call__'; write def predict(self,"
        " x: FP32[16]) -> FP32[1]"
    )


def read_signature(target: Callable[..., Any], method: str = "") -> Signature:
    """The signature of a function, or of a class by its `method` (default predict or __call__).

    Raises InvalidArgument that names the parameter, what was found and what is expected.
    """
    name, function, skipped = _callable_of(target, method)
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    python = inspect.signature(function)
    taken = _read_parameters(list(python.parameters.values())[skipped:], scope, name)
    returned = evaluate(python.return_annotation, scope, f"return of {name}")
    form, outputs = read_outputs(returned, f"return of {name}")
    _refuse_twins(taken.inputs, f"inputs of {name}")
    _refuse_twins(outputs, f"outputs of {name}")
    signature = Signature(
        name=name,
        inputs=tuple(taken.inputs),
        outputs=outputs,
        form=form,
        kind=_kind_of(function, returned, name),
        settings=_settings_of(target),
        open_inputs=taken.open_inputs,
        context_parameter=taken.context,
        context_use=taken.use,
    )
    check_context(signature, signature.max_batch_size)
    return signature


def check_context(signature: Signature, max_batch_size: int) -> None:
    """Refuse a model that takes batches but asks for the context of a single request."""
    if (
        signature.context_use is ContextUse.ONE
        and max_batch_size > 0
        and not signature.kind.streams
    ):
        raise InvalidArgument(
            f"parameter '{signature.context_parameter}' of {signature.name} is annotated Context,"
            f" but max_batch_size is {max_batch_size}: a batch holds many requests, expected"
            " list[Context]"
        )


@dataclass(slots=True)
class _Taken:
    """The parameters of a model, as they are read."""

    inputs: list[Field]
    context: str = ""
    use: ContextUse = ContextUse.NONE
    open_inputs: bool = False


def _read_parameters(
    parameters: list[inspect.Parameter], scope: dict[str, Any], name: str
) -> _Taken:
    taken = _Taken([])
    for parameter in parameters:
        where = f"parameter '{parameter.name}' of {name}"
        annotation = evaluate(parameter.annotation, scope, where)
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise InvalidArgument(f"{where} is *{parameter.name}; name each input, or use **inputs")
        if parameter.kind is parameter.VAR_KEYWORD:
            taken.open_inputs = True
        elif (use := context_use(annotation)) is not ContextUse.NONE:
            taken.context, taken.use = parameter.name, use
        else:
            has_default = parameter.default is not parameter.empty
            taken.inputs.append(read_input(parameter.name, annotation, has_default, where))
    return taken


def _callable_of(target: Callable[..., Any], method: str) -> tuple[str, Callable[..., Any], int]:
    """The readable name, the function behind the target, and how many parameters are its own
    (self).
    """
    if not inspect.isclass(target):
        return getattr(target, "__name__", repr(target)), target, 0
    method = method or method_of(target)
    plain = inspect.getattr_static(target, method, None)
    if plain is None:
        raise InvalidArgument(f"class {target.__name__} has no method '{method}'")
    function = getattr(target, method)
    is_own = not isinstance(plain, staticmethod | classmethod)
    return f"{target.__name__}.{method}", function, int(is_own)


def _kind_of(function: Callable[..., Any], returned: object, name: str) -> CallKind:
    plain = inspect.unwrap(function)
    streams = is_stream(returned)
    if inspect.isasyncgenfunction(plain):
        return CallKind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(plain):
        return CallKind.GENERATOR
    if inspect.iscoroutinefunction(plain):
        if streams is not None:
            raise InvalidArgument(
                f"{name} is a coroutine that is annotated to return an iterator; yield its"
                " responses instead, so that it is an async generator"
            )
        return CallKind.COROUTINE
    if streams is None:
        return CallKind.PLAIN
    return CallKind.ASYNC_GENERATOR if streams == "async" else CallKind.GENERATOR


def _settings_of(target: Callable[..., Any]) -> ModelSettings:
    recorded = getattr(target, "__dict__", {}).get(SETTINGS)
    if isinstance(recorded, ModelSettings):
        return recorded
    if not inspect.isclass(target):
        return ModelSettings()
    return make_settings(
        getattr(target, "max_batch_size", 0),
        getattr(target, "batching", True),
        getattr(target, "instances", 1),
    )


def _refuse_twins(fields: Sequence[Field], what: str) -> None:
    names = [field.name for field in fields]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InvalidArgument(f"{what} hold '{twins[0]}' twice; a tensor's name is unique")
