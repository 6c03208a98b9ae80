"""Tensors for and from the command line: read from text and files, made up, fitted to what a model
wants, printed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cli.command import CommandError
from penstock.cli.terminal import plain
from penstock_runtime.datatype import AnyArray, DataType, float32_to_bf16
from penstock_runtime.tensor import Tensor

MADE_UP_TEXT = ("penstock", "the river turns the wheel", "a gate shapes the flow")


def read_tensor(name: str, text: str, datatype: DataType, dims: Sequence[int]) -> Tensor:
    """The tensor that `NAME=text` means for an input of this datatype and these dims (-1: any).

    `text` is @file.npy, @file.json, @file (its bytes, for BYTES), a JSON value, or plain text for
    BYTES. A batch dimension that is missing is put in front.
    """
    value = _read_file(Path(text[1:]), datatype) if text.startswith("@") else _parse(text, datatype)
    try:
        array = _as_array(value, datatype)
    except (ValueError, TypeError, OverflowError) as error:
        raise CommandError(f"input {name}: {text!r} is no {datatype.value} data: {error}") from None
    array = fit(array, dims)
    return Tensor(name, datatype, array.shape, array)


def _read_file(path: Path, datatype: DataType) -> Any:
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise CommandError(f"{path} is no .npy file of plain data: {error}") from None
    if path.suffix == ".json":
        return _parse_json(path.read_text(), str(path))
    if datatype is DataType.BYTES:
        return [path.read_bytes()]
    raise CommandError(f"{path}: {datatype.value} data is read from .npy or .json files")


def _parse(text: str, datatype: DataType) -> Any:
    if datatype is DataType.BYTES and not text.lstrip().startswith(("[", '"')):
        return [text]
    return _parse_json(text, repr(text))


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CommandError(f"{where} is neither JSON nor @FILE: {error}") from None


def _as_array(value: Any, datatype: DataType) -> AnyArray:
    if datatype is DataType.BYTES:
        return np.asarray(value, dtype=object)
    if datatype is DataType.BF16:
        return float32_to_bf16(np.asarray(value, dtype=np.float32))
    return np.asarray(value).astype(datatype.numpy, casting="unsafe")


def fit(array: AnyArray, dims: Sequence[int]) -> AnyArray:
    """The array in a shape that `dims` (-1: any) allow, if there is an obvious one.

    Leading ones are added, or the elements laid out anew; else the array is left to the server.
    """
    shape = (1,) * (len(dims) - array.ndim) + array.shape
    if len(shape) == len(dims) and all(d in (-1, s) for s, d in zip(shape, dims, strict=True)):
        return array.reshape(shape)
    known = int(np.prod([d for d in dims if d >= 0], dtype=np.int64))
    if list(dims).count(-1) <= 1 and known and array.size and array.size % known == 0:
        wanted = [array.size // known if d < 0 else d for d in dims]
        if int(np.prod(wanted, dtype=np.int64)) == array.size:
            return array.reshape(wanted)
    return array


def random_tensor(
    name: str, datatype: DataType, dims: Sequence[int], generator: np.random.Generator
) -> Tensor:
    """A tensor of made-up values; dims of -1 become 1."""
    shape = tuple(1 if d < 0 else d for d in dims)
    array = _random_array(datatype, shape, generator)
    return Tensor(name, datatype, shape, array)


def _random_array(
    datatype: DataType, shape: tuple[int, ...], generator: np.random.Generator
) -> AnyArray:
    if datatype is DataType.BYTES:
        words = np.array(MADE_UP_TEXT, dtype=object)
        return np.asarray(words[generator.integers(0, len(words), shape)], dtype=object)
    if datatype is DataType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if datatype is DataType.BF16:
        return float32_to_bf16(generator.random(shape, dtype=np.float32))
    if datatype.numpy.kind == "f":
        return generator.random(shape).astype(datatype.numpy)
    return generator.integers(0, 10, shape).astype(datatype.numpy)


def show(tensor: Tensor, array: AnyArray) -> str:
    """Name, datatype, shape and values of an output, long ones shortened."""
    dims = ",".join(map(str, tensor.shape))
    head = f"{plain(tensor.name)}  {tensor.datatype.value}[{dims}]"
    values = np.array(_decoded(array), dtype=object) if array.dtype == object else array
    with np.printoptions(precision=6, suppress=True, threshold=60, edgeitems=4, linewidth=92):
        body = plain(np.array2string(values.reshape(tensor.shape)))
    return f"{head}\n    " + body.replace("\n", "\n    ")


def _decoded(array: AnyArray) -> list[str]:
    return [item.decode(errors="backslashreplace") for item in array.reshape(-1).tolist()]


def as_json(tensor: Tensor, array: AnyArray) -> dict[str, object]:
    """An output as the REST form of the protocol has it; data is flat, row-major."""
    data = _decoded(array) if array.dtype == object else array.reshape(-1).tolist()
    return {
        "name": tensor.name,
        "datatype": tensor.datatype.value,
        "shape": list(tensor.shape),
        "data": data,
    }
