"""How a `model.cu` is launched, as its configuration says it: the function, grid and block, the
arguments in their order, the shapes of outputs.

    parameters { key: "function"  value: { string_value: "scale" } }
    parameters { key: "grid"      value: { string_value: "ceil_div(X.size, 256)" } }
    parameters { key: "block"     value: { string_value: "256" } }
    parameters { key: "arguments" value: { string_value: "X, Y, int32(X.size), float32(2.5)" } }
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock_kernels.declare import GRID_LIMITS, SHARED_LIMIT, Launch
from penstock_runtime.backends.completion import told_types
from penstock_runtime.backends.kernel.expressions import Misspelt, Shapes, Value, parse, parse_list
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.config import ModelConfig, ModelOutput

OPTIONS = ("function", "grid", "block", "shared_bytes", "arguments")
SHAPE = "shape."
_MOST_THREADS = 1024
_BLOCK_LIMITS = (1024, 1024, 64)
_FUNCTION = re.compile(r"[A-Za-z_][\w:]{0,127}(<[\w\s,:]{1,128}>)?")
_SCALAR = re.compile(r"(int32|int64|float32)\s*\((.*)\)", re.DOTALL)
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_INTEGERS: dict[str, Callable[[int], Any]] = {"int32": np.int32, "int64": np.int64}

Argument = Callable[[Mapping[str, Any], Shapes], Any]


class LaunchPlan:
    """What one model's batches are launched with; InvalidArgument for what cannot be read."""

    def __init__(self, options: Options, config: ModelConfig) -> None:
        self._refuse = options.refuse
        self._inputs = tuple(tensor.name for tensor in config.input)
        self._readable = (*self._inputs, *told_types(config))
        outputs = tuple(tensor.name for tensor in config.output)
        names = (*self._readable, *outputs)
        self.function = _function(options)
        self._grid = self._read("grid", options.text("grid"), names)
        self._block = self._read("block", options.text("block", "256"), names)
        self._shared = self._read("shared_bytes", options.text("shared_bytes", "0"), names)[0]
        self._arguments = [
            self._argument(part, names)
            for part in _split(options.text("arguments", ", ".join((*self._inputs, *outputs))))
        ]
        self._shapes = {out.name: self._shape(options, config, out) for out in config.output}

    def output_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """The shapes of outputs by those of inputs; ValueError for one that is negative."""
        found = {}
        for name, dims in self._shapes.items():
            shape = tuple(self._number(f"{SHAPE}{name}", dim, shapes) for dim in dims)
            if min(shape, default=0) < 0:
                raise ValueError(f"{SHAPE}{name} is {list(shape)}, expected no negative size")
            found[name] = shape
        return found

    def launches(self, tensors: Mapping[str, Any]) -> list[Launch]:
        """One launch, or none where its grid is empty; ValueError beyond a device's limits."""
        shapes = {name: tuple(array.shape) for name, array in tensors.items()}
        grid = self._geometry("grid", self._grid, GRID_LIMITS, shapes)
        block = self._geometry("block", self._block, _BLOCK_LIMITS, shapes)
        shared = self._number("shared_bytes", self._shared, shapes)
        threads = block[0] * block[1] * block[2]
        if not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"a block of {block} threads, expected 1 to {_MOST_THREADS} in all")
        if not 0 <= shared <= SHARED_LIMIT:
            raise ValueError(f"{shared} bytes of shared memory, expected 0 to {SHARED_LIMIT}")
        if 0 in grid:
            return []
        arguments = tuple(argument(tensors, shapes) for argument in self._arguments)
        return [Launch(self.function, grid, block, arguments, shared)]

    def _geometry(
        self, key: str, dims: Sequence[Value], limits: Sequence[int], shapes: Shapes
    ) -> tuple[int, int, int]:
        sizes = [self._number(key, dim, shapes) for dim in dims]
        for size, limit in zip(sizes, limits, strict=False):
            if not 0 <= size <= limit:
                raise ValueError(
                    f"{key} is {tuple(sizes)}, expected at most {limit} where {size} is"
                )
        x, y, z = (*sizes, 1, 1)[:3]
        return x, y, z

    def _number(self, key: str, value: Value, shapes: Shapes) -> int:
        try:
            return value(shapes)
        except Misspelt as wrong:
            raise ValueError(f"{key} {wrong}") from None

    def _read(self, key: str, text: str, names: Sequence[str]) -> list[Value]:
        try:
            found = parse_list(text, names)
        except Misspelt as wrong:
            raise self._refuse(f"has {key} {text[:64]!r}, which {wrong}", _EXAMPLE) from None
        if len(found) > 3:
            raise self._refuse(f"has {key} with {len(found)} sizes", "one to three: x, y, z")
        return found

    def _argument(self, text: str, names: Sequence[str]) -> Argument:
        if text in names:
            return lambda tensors, _: tensors[text]
        scalar = _SCALAR.fullmatch(text)
        if scalar is None:
            known = ", ".join(names)
            raise self._refuse(
                f"has the argument {text[:64]!r}",
                f"{known}, or int32(...), int64(...), float32(...)",
            )
        kind, inner = scalar[1], scalar[2].strip()
        if kind == "float32" and _FLOAT.fullmatch(inner):
            constant = np.float32(inner)
            return lambda _tensors, _shapes: constant
        (value,) = self._read("arguments", inner, names)[:1]
        make: Callable[[int], Any] = _INTEGERS.get(kind, np.float32)
        return lambda _tensors, shapes: self._scalar(text, make, value, shapes)

    def _scalar(self, text: str, make: Callable[[int], Any], value: Value, shapes: Shapes) -> Any:
        number = self._number("arguments", value, shapes)
        if make is np.int32 and not -(2**31) <= number < 2**31:
            raise ValueError(f"the argument {text} is {number}, which no int32 holds")
        return make(number)

    def _shape(self, options: Options, config: ModelConfig, out: ModelOutput) -> list[Value]:
        """What is said by `shape.NAME`, else the dims, wildcards as in the first input that has as
        many.
        """
        first = [-1] if config.max_batch_size > 0 else []
        dims, said = [*first, *out.dims], options.text(f"{SHAPE}{out.name}")
        if said:
            values = self._read_shape(out.name, said)
            if len(values) == len(dims):
                return values
            raise self._refuse(f"has {SHAPE}{out.name} of {len(values)} sizes", str(len(dims)))
        likes = [i.name for i in config.input if len(i.dims) == len(out.dims)]
        if -1 in dims[len(first) :] and not likes:
            raise self._refuse(
                f"has output '{out.name}' of unknown size", f"a parameter {SHAPE}{out.name}"
            )
        like = (likes or list(self._inputs))[:1]
        if not like:
            raise self._refuse("has no input", "at least one")
        return [
            parse(f"{like[0]}.shape[{axis}]" if dim == -1 else str(dim), like)
            for axis, dim in enumerate(dims)
        ]

    def _read_shape(self, name: str, said: str) -> list[Value]:
        try:
            return parse_list(said, self._readable)
        except Misspelt as wrong:
            found = f"has {SHAPE}{name} {said[:64]!r}, which {wrong}"
            raise self._refuse(found, _EXAMPLE) from None


_EXAMPLE = "whole numbers of shapes, as ceil_div(X.size, 256)"


def _function(options: Options) -> str:
    name = options.text("function")
    if not _FUNCTION.fullmatch(name):
        raise options.refuse(
            f"has function {name[:64]!r}", "the name of a __global__ function of model.cu"
        )
    return name


def _split(text: str) -> list[str]:
    """At the commas outside of parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
