"""Laws of signatures: what a model's annotations say is what is read, and an error names what is
wrong.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from textwrap import dedent
from types import ModuleType
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import pytest

from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model_api import (
    BF16,
    BYTES,
    FP32,
    INT64,
    Context,
    TensorSpec,
    model,
)
from penstock_runtime.signature import CallKind, Signature, read_signature
from penstock_runtime.signature_annotations import ContextUse, OutputForm

HEADER = """
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, NamedTuple, TypedDict
import numpy as np
from penstock_runtime.model_api import *
"""


def define(text: str, *, postponed: bool = False) -> Any:
    """The object called `predict` or `Model` of a piece of model source."""
    module = ModuleType("signature_under_test")
    sys.modules[module.__name__] = module
    first = "from __future__ import annotations\n" if postponed else ""
    exec(first + HEADER + dedent(text), vars(module))
    return vars(module).get("Model") or vars(module)["predict"]


def names(signature: Signature) -> tuple[list[str], list[str]]:
    return [i.name for i in signature.inputs], [o.name for o in signature.outputs]


@pytest.mark.parametrize("postponed", [False, True])
def test_specs_are_read_as_annotations_plain_and_postponed(postponed: bool) -> None:
    """A spec stands where a type would, whether or not annotations are text."""
    text = "def predict(x: FP32[16], y: INT64[-1, 2] | None = None) -> FP32[1].named('y_hat'): ..."

    signature = read_signature(define(text, postponed=postponed))

    x, y = signature.inputs
    assert x.spec == TensorSpec(DataType.FP32, (16,))
    assert not x.optional
    assert y.spec is not None
    assert y.spec.dims == (-1, 2)
    assert y.optional
    assert names(signature) == (["x", "y"], ["y_hat"])
    assert signature.form is OutputForm.SINGLE
    assert signature.kind is CallKind.PLAIN


def test_annotated_arrays_are_tensors_for_penstock_and_arrays_for_type_checkers() -> None:
    """Annotated[np.ndarray, spec] means the spec, optional with `| None`."""

    def predict(
        x: Annotated[AnyArray, FP32[16].named("INPUT__0")],
        scale: Annotated[AnyArray, BF16[1]] | None = None,
    ) -> Annotated[AnyArray, BYTES[1]]:
        raise NotImplementedError

    signature = read_signature(predict)

    assert names(signature) == (["INPUT__0", "scale"], ["OUTPUT0"])
    assert [i.key for i in signature.inputs] == ["x", "scale"]
    assert [i.optional for i in signature.inputs] == [False, True]


def test_a_tuple_names_its_outputs_by_position_unless_they_are_named() -> None:
    """tuple[a, b] is OUTPUT0 and OUTPUT1, or what they are called."""
    target = define("def predict(x: FP32[1]) -> tuple[FP32[1], INT64[2].named('ids')]: ...")

    signature = read_signature(target)

    assert names(signature)[1] == ["OUTPUT0", "ids"]
    assert signature.form is OutputForm.TUPLE


class Scores(TypedDict):
    """Two outputs by name."""

    scores: Annotated[AnyArray, FP32[10]]
    note: NotRequired[Annotated[AnyArray, BYTES[1]]]


class Pair(NamedTuple):
    """Two outputs by field."""

    first: Annotated[AnyArray, FP32[1]]
    second: Annotated[AnyArray, INT64[1].named("SECOND")]


def test_typed_dicts_and_named_tuples_name_outputs_by_their_fields() -> None:
    """A field is an output, under its own name or the one of its spec."""

    def scored(x: Annotated[AnyArray, FP32[1]]) -> Scores:
        raise NotImplementedError

    def paired(x: Annotated[AnyArray, FP32[1]]) -> Pair:
        raise NotImplementedError

    first, second = read_signature(scored), read_signature(paired)

    assert names(first)[1] == ["scores", "note"]
    assert [o.optional for o in first.outputs] == [False, True]
    assert names(second)[1] == ["first", "SECOND"]
    assert [o.key for o in second.outputs] == ["first", "second"]


@pytest.mark.parametrize("postponed", [False, True])
def test_dataclasses_and_typed_dicts_of_specs_are_outputs(postponed: bool) -> None:
    """A field may be annotated with the bare spec, also as text."""
    record = """
    @dataclasses.dataclass
    class Out:
        a: FP32[1]
        b: INT64[2]
    def predict(x: FP32[1]) -> Out: ...
    """
    mapping = """
    class Out(TypedDict):
        a: FP32[1]
        b: INT64[2]
    def predict(x: FP32[1]) -> Iterator[Out]: ...
    """

    first = read_signature(define(record, postponed=postponed))
    second = read_signature(define(mapping, postponed=postponed))

    assert names(first)[1] == names(second)[1] == ["a", "b"]
    assert second.kind is CallKind.GENERATOR


def test_generators_and_async_generators_are_streams() -> None:
    """What yields is a stream, and so is what is annotated to return an iterator."""

    def yields(n: Annotated[AnyArray, INT64[1]]) -> Iterator[Annotated[AnyArray, INT64[1]]]:
        yield n

    async def awaits(
        n: Annotated[AnyArray, INT64[1]],
    ) -> AsyncIterator[Annotated[AnyArray, INT64[1]]]:
        yield n

    def returns(n: Annotated[AnyArray, INT64[1]]) -> Iterator[Annotated[AnyArray, INT64[1]]]:
        return iter([n])

    async def once(n: Annotated[AnyArray, INT64[1]]) -> Annotated[AnyArray, INT64[1]]:
        return n

    kinds = [read_signature(f).kind for f in (yields, awaits, returns, once)]

    assert kinds == [
        CallKind.GENERATOR,
        CallKind.ASYNC_GENERATOR,
        CallKind.GENERATOR,
        CallKind.COROUTINE,
    ]
    assert [kind.streams for kind in kinds] == [True, True, True, False]
    assert read_signature(awaits).outputs[0].spec == INT64[1]


def test_a_context_parameter_is_no_input() -> None:
    """Context and list[Context] ask for the request's context."""

    def one(x: Annotated[AnyArray, FP32[1]], ctx: Context) -> Annotated[AnyArray, FP32[1]]:
        return x

    @model(max_batch_size=4)
    def many(contexts: list[Context], x: Annotated[AnyArray, FP32[1]]) -> AnyArray:
        return x

    first, second = read_signature(one), read_signature(many)

    assert (first.context_parameter, first.context_use) == ("ctx", ContextUse.ONE)
    assert (second.context_parameter, second.context_use) == ("contexts", ContextUse.MANY)
    assert names(first)[0] == names(second)[0] == ["x"]
    assert first.wants_context


def test_the_decorator_records_and_changes_nothing() -> None:
    """@model works bare and with arguments, on functions and classes, and only records."""

    def bare(x: Annotated[AnyArray, FP32[1]]) -> Annotated[AnyArray, FP32[1]]:
        return x

    class Named:
        def predict(self, x: Annotated[AnyArray, FP32[1]]) -> Annotated[AnyArray, FP32[1]]:
            return x

    marked = model(bare)
    rules = {"max_queue_delay_microseconds": 5, "length_batching": {"input": ["x"]}}
    named = model(max_batch_size=8, batching=rules, instances=2, name="n")(Named)

    assert marked is bare
    assert named is Named
    settings = read_signature(named).settings
    assert (settings.max_batch_size, settings.instances, settings.name) == (8, 2, "n")
    assert settings.batching == DynamicBatching(
        max_queue_delay_microseconds=5, length_batching=LengthBatching(input=("x",))
    )
    assert model(batching=False)(Named) is Named
    assert read_signature(Named).settings.batching is None


def test_class_attributes_say_what_the_decorator_would() -> None:
    """max_batch_size, batching and instances may be attributes of the class."""
    target = define("""
    class Model:
        max_batch_size = 16
        instances = 3
        def predict(self, x: FP32[4]) -> FP32[1]: ...
    """)

    signature = read_signature(target)

    assert signature.max_batch_size == 16
    assert signature.settings.instances == 3
    assert signature.name == "Model.predict"


def test_unannotated_parameters_and_outputs_are_left_to_the_configuration() -> None:
    """An array without a spec has a name only; ** takes whatever is configured."""

    def predict(x: AnyArray, y: Any, **rest: Any) -> dict[str, AnyArray]:
        return {"x": x, "y": y, **rest}

    signature = read_signature(predict)

    assert [i.spec for i in signature.inputs] == [None, None]
    assert signature.open_inputs
    assert signature.form is OutputForm.UNKNOWN
    assert not signature.outputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def predict(x: int) -> FP32[1]: ...", "parameter 'x' of predict is annotated int"),
        ("def predict(x: FP32) -> FP32[1]: ...", "expected FP32[dims]"),
        ("def predict(*x: FP32[1]) -> FP32[1]: ...", "name each input"),
        ("def predict(x: FP32[1]) -> None: ...", "return of predict is annotated None"),
        ("def predict(x: FP32[1]) -> tuple[FP32[1], ...]: ...", "tuple of unknown length"),
        ("def predict(x: FP32[1]) -> str: ...", "return of predict is annotated str"),
        ("def predict(x: 'Missing[1]') -> FP32[1]: ...", "cannot be evaluated: NameError"),
        ("def predict(x: FP32[1], y: FP32[1].named('x')) -> FP32[1]: ...", "'x' twice"),
        (
            "class Model:\n  max_batch_size = -1\n  def predict(self, x: FP32[1]) -> FP32[1]: ...",
            "max_batch_size of a model is an int of at least 0, got -1",
        ),
        (
            "@model(max_batch_size=2)\ndef predict(x: FP32[1], c: Context) -> FP32[1]: ...",
            "expected list[Context]",
        ),
        (
            "async def predict(x: FP32[1]) -> AsyncIterator[FP32[1]]: return x",
            "yield its responses instead",
        ),
    ],
)
def test_an_error_names_the_parameter_what_was_found_and_what_is_expected(
    text: str, expected: str
) -> None:
    """Whatever cannot be a tensor is refused with words that help."""
    with pytest.raises(InvalidArgument) as caught:
        read_signature(define(text))

    assert expected in caught.value.message


def test_a_class_needs_a_method_that_answers() -> None:
    """A class with neither predict nor __call__ is no model."""

    class Empty:
        """Nothing to call."""

    with pytest.raises(InvalidArgument, match="neither 'predict' nor '__call__'"):
        read_signature(Empty)


@pytest.mark.parametrize("dims", [0, -2, 1.5, (4, 0), "x", True])
def test_a_dim_is_positive_or_minus_one(dims: Any) -> None:
    """No other size can be written."""
    with pytest.raises(InvalidArgument, match="a dim is a positive int or -1"):
        FP32[dims]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"instances": 0}, "instances"),
        ({"batching": 3}, "batching"),
        ({"batching": {"delay": 1}}, "batching has no field 'delay'"),
    ],
)
def test_a_wrong_setting_is_named(arguments: dict[str, Any], expected: str) -> None:
    """The decorator refuses what no configuration could say."""
    with pytest.raises(InvalidArgument, match=expected):
        model(**arguments)


def test_specs_show_themselves_as_they_are_written() -> None:
    """The repr of a spec is its source."""
    assert repr(FP32[-1, 16].named("X")) == "FP32[-1, 16].named('X')"
    assert repr(BYTES) == "BYTES"
    assert np.dtype(FP32.datatype.numpy) == np.float32
