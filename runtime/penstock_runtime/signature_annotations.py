"""What one annotation of a model means: a tensor, several outputs, a stream of them, or the
request's context.
"""

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model_api import Context, TensorSpec, TensorType

_STREAMS: Mapping[object, str] = {
    collections.abc.Iterator: "sync",
    collections.abc.Iterable: "sync",
    collections.abc.Generator: "sync",
    collections.abc.AsyncIterator: "async",
    collections.abc.AsyncIterable: "async",
    collections.abc.AsyncGenerator: "async",
}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
_EXAMPLE = "a tensor such as FP32[16], or Annotated[np.ndarray, FP32[16]]"


class ContextUse(Enum):
    """Whether a model takes the context of its one request, or a list of them for a batch."""

    NONE = "none"
    ONE = "Context"
    MANY = "list[Context]"


class OutputForm(Enum):
    """How a model hands its outputs over."""

    UNKNOWN = "not annotated"
    SINGLE = "one value"
    TUPLE = "a tuple"
    FIELDS = "named fields"


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of a signature.

    `name` is the tensor's, `key` the parameter or field that holds it in Python ("" for a position
    of a tuple); `spec` is None when the annotation says nothing of datatype and dims.
    """

    name: str
    key: str
    spec: TensorSpec | None
    optional: bool = False


def evaluate(annotation: object, scope: Mapping[str, Any], where: str) -> object:
    """The annotation itself, also when it was written or postponed as text."""
    text = annotation.__forward_arg__ if isinstance(annotation, typing.ForwardRef) else annotation
    if not isinstance(text, str):
        return annotation
    try:
        # The text is the model's own source, which has been executed already.
        return eval(text, dict(scope))
    except Exception as error:
        raise InvalidArgument(
            f"{where}: annotation {text!r} cannot be evaluated: {type(error).__name__}: {error}"
        ) from error


def context_use(annotation: object) -> ContextUse:
    """Whether the annotation asks for the request's context."""
    if _is_context(annotation):
        return ContextUse.ONE
    arguments = get_args(annotation)
    if get_origin(annotation) in _LISTS and len(arguments) == 1 and _is_context(arguments[0]):
        return ContextUse.MANY
    return ContextUse.NONE


def _is_context(annotation: object) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, Context)


def read_input(name: str, annotation: object, has_default: bool, where: str) -> Field:
    """The input that a parameter stands for; it is optional with `| None` or a default."""
    spec, nullable = _spec_of(annotation, where)
    tensor_name = spec.name if spec is not None and spec.name else name
    return Field(tensor_name, name, spec, nullable or has_default)


def is_stream(annotation: object) -> str | None:
    """ "sync" or "async" for an annotation that is an iterator of responses, else None."""
    return _STREAMS.get(get_origin(annotation))


def read_outputs(annotation: object, where: str) -> tuple[OutputForm, tuple[Field, ...]]:
    """The outputs that a return annotation stands for, those of one response for a stream."""
    if is_stream(annotation) is not None:
        annotation = get_args(annotation)[0]
    if annotation is None or annotation is types.NoneType:
        raise InvalidArgument(f"{where} is annotated None, expected {_EXAMPLE}")
    if inspect.isclass(annotation) and (hints := _fields_of(annotation)) is not None:
        return OutputForm.FIELDS, _named_outputs(annotation, hints, where)
    if get_origin(annotation) is tuple:
        return OutputForm.TUPLE, _tuple_outputs(get_args(annotation), where)
    if _is_open_mapping(annotation):
        return OutputForm.UNKNOWN, ()
    spec, _ = _spec_of(annotation, where)
    if spec is None:
        return OutputForm.UNKNOWN, ()
    return OutputForm.SINGLE, (Field(spec.name or "OUTPUT0", "", spec),)


def _tuple_outputs(items: tuple[object, ...], where: str) -> tuple[Field, ...]:
    if not items or Ellipsis in items:
        raise InvalidArgument(f"{where} is a tuple of unknown length; write one tensor per output")
    outputs = []
    for position, item in enumerate(items):
        spec, _ = _spec_of(item, f"{where}, element {position}")
        name = spec.name if spec is not None and spec.name else f"OUTPUT{position}"
        outputs.append(Field(name, "", spec))
    return tuple(outputs)


def _named_outputs(kind: type, hints: Mapping[str, object], where: str) -> tuple[Field, ...]:
    scope = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
    outputs = []
    for key, hint in hints.items():
        place = f"{where}, field '{key}' of {kind.__name__}"
        found = evaluate(hint, scope, place)
        may_miss = get_origin(found) is typing.NotRequired
        if may_miss or get_origin(found) is typing.Required:
            found = get_args(found)[0]
        spec, nullable = _spec_of(found, place)
        name = spec.name if spec is not None and spec.name else key
        outputs.append(Field(name, key, spec, may_miss or nullable))
    if not outputs:
        raise InvalidArgument(f"{where}: {kind.__name__} has no annotated fields")
    return tuple(outputs)


def _fields_of(kind: type) -> Mapping[str, object] | None:
    """Annotations of a TypedDict, a NamedTuple or a dataclass; None for any other class."""
    if dataclasses.is_dataclass(kind):
        return {f.name: f.type for f in dataclasses.fields(kind)}
    if typing.is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return inspect.get_annotations(kind)
    return None


def _is_open_mapping(annotation: object) -> bool:
    kind = get_origin(annotation) or annotation
    return inspect.isclass(kind) and issubclass(kind, collections.abc.Mapping)


def _spec_of(annotation: object, where: str) -> tuple[TensorSpec | None, bool]:
    """The tensor of an annotation (None when it names no more than an array type), and whether it
    may be None.
    """
    if isinstance(annotation, TensorSpec):
        return annotation, annotation.optional
    if isinstance(annotation, TensorType):
        raise InvalidArgument(f"{where} is annotated {annotation!r}, expected {annotation!r}[dims]")
    origin = get_origin(annotation)
    if origin is Annotated:
        return _spec_of_annotated(annotation, where)
    if origin in (Union, types.UnionType):
        options = [a for a in get_args(annotation) if a is not types.NoneType]
        if len(options) == 1:
            return _spec_of(options[0], where)[0], True
    if _is_array_type(annotation):
        return None, False
    raise InvalidArgument(f"{where} is annotated {_shown(annotation)}, expected {_EXAMPLE}")


def _spec_of_annotated(annotation: object, where: str) -> tuple[TensorSpec | None, bool]:
    base, *metadata = get_args(annotation)
    spec = next((m for m in metadata if isinstance(m, TensorSpec)), None)
    if spec is None:
        return _spec_of(base, where)
    nullable = get_origin(base) in (Union, types.UnionType) and types.NoneType in get_args(base)
    return spec, spec.optional or nullable


def _is_array_type(annotation: object) -> bool:
    """Whether the annotation is missing, or an array of no particular datatype and dims."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return True
    kind = get_origin(annotation) or annotation
    if kind is np.ndarray:
        return True
    # torch is not imported to ask: a model that names its Tensor has imported it.
    return getattr(kind, "__module__", "") == "torch" and getattr(kind, "__name__", "") == "Tensor"


def _shown(annotation: object) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else repr(annotation)
