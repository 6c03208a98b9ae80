"""What a check of a configuration finds, and the questions that several checks ask."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a configuration.

    `field` is its path in the text, e.g. input[0].dims; `message` says the value and what was
    expected; `fix` says what to write instead. A model with an error is not loaded, one with
    warnings does what its text says, which may not be what was meant.
    """

    severity: Severity
    field: str
    message: str
    fix: str


Problems = Iterator[Problem]

MAX_ELEMENTS = 2**63 - 1
TEXT_LENGTH = 300
SHOWN_ITEMS = 8


def error(field: str, message: str, fix: str) -> Problem:
    """A problem that keeps the model from being loaded."""
    return Problem("error", _short(field), _short(message), _short(fix))


def warning(field: str, message: str, fix: str) -> Problem:
    """A problem that may be meant."""
    return Problem("warning", _short(field), _short(message), _short(fix))


def _short(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else text[:TEXT_LENGTH] + "..."


def shape_text(dims: Sequence[int]) -> str:
    """Dimensions as messages show them, e.g. [3,-1]; the first few of very many."""
    more = ",..." if len(dims) > SHOWN_ITEMS else ""
    return f"[{','.join(str(dim) for dim in dims[:SHOWN_ITEMS])}{more}]"


def below(field: str, value: int, least: int) -> Problems:
    """An error if `value` is less than `least`."""
    if value < least:
        yield error(field, f"must be >= {least}, got {value}", f"set it to {least} or more")


def outside(field: str, value: float, low: float, high: float) -> Problems:
    """An error unless `low <= value <= high`; NaN is outside."""
    if not low <= value <= high:
        fix = f"choose a value from {low} to {high}"
        yield error(field, f"must be from {low} to {high}, got {value}", fix)


def not_one_of(field: str, value: str, choices: Sequence[str]) -> Problems:
    """An error unless `value` is one of the names of an enum."""
    if value not in choices:
        names = ", ".join(choices)
        yield error(field, f"must be one of {names}, got '{value}'", f"use one of {names}")


def repeated(field: str, names: Iterable[object]) -> Problems:
    """An error for each name that comes more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            yield error(field, f"'{name}' is given {count} times", "give each once")


def unknown(field: str, name: str, known: Collection[str], what: str) -> Problems:
    """An error if `name` is not among the names of inputs or outputs."""
    if name not in known:
        shown = ", ".join(f"'{one}'" for one in islice(known, SHOWN_ITEMS)) or "none"
        yield error(field, f"'{name}' is no {what} of the model", f"name one of them: {shown}")


def not_a_file_name(field: str, value: str) -> Problems:
    """An error for a file name that leads out of its folder."""
    parts = value.replace("\\", "/").split("/")
    if value.startswith(("/", "\\")) or ".." in parts or "\0" in value:
        yield error(field, f"'{value}' leads out of the model's folder", "name a file inside it")


def bad_dims(field: str, dims: Sequence[int], *, wildcard: bool = True) -> Problems:
    """An error for the first dimension that no tensor can have, or for too many elements.

    `wildcard`: -1 is allowed.
    """
    expected = "must be > 0, or -1 for any size" if wildcard else "must be > 0"
    elements = 1
    for index, dim in enumerate(dims):
        if dim < 1 and not (wildcard and dim == -1):
            fix = "write the size, without the batch dimension"
            yield error(f"{field}[{index}]", f"{expected}, got {dim}", fix)
            return
        elements *= max(dim, 1)
        if elements > MAX_ELEMENTS:
            yield error(field, f"more than {MAX_ELEMENTS} elements", "correct the sizes")
            return


def bad_batch_sizes(field: str, sizes: Sequence[int], max_batch_size: int) -> Problems:
    """An error for each preferred size that no batch can have."""
    for index, size in enumerate(sizes):
        place = f"{field}[{index}]"
        if size < 1:
            yield error(place, f"preferred size must be positive, got {size}", "remove it")
        elif size > max_batch_size:
            fix = f"raise max_batch_size to {size} or remove the size"
            limit = f"max_batch_size {max_batch_size}"
            yield error(place, f"preferred size must be <= {limit}, got {size}", fix)


def fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape fits dims, in which -1 is any size."""
    if len(dims) != len(shape):
        return False
    return all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
