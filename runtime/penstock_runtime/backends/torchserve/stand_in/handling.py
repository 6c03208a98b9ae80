"""The smaller functions that handlers import from torchserve."""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class PredictionException(Exception):
    """A failure that a handler wants told with a status of its own."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that a module defines itself, those below `parent_class` if it is given."""
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__
        and (parent_class is None or issubclass(found, parent_class))
    ]


def load_label_mapping(mapping_file_path: str) -> Any:
    """What the JSON file of names by class number says; None where there is no file."""
    if not os.path.isfile(mapping_file_path):
        return None
    with open(mapping_file_path) as file:
        mapping = json.load(file)
    if isinstance(mapping, dict) and isinstance(mapping.get("object_type_names"), list):
        return {str(number): name for number, name in enumerate(mapping["object_type_names"])}
    return mapping


def map_class_to_label(
    probs: Any, mapping: Mapping[str, Any] | None = None, lbl_classes: Any = None
) -> list[dict[str, float]]:
    """Rows of probabilities with the name of each class; `lbl_classes` are the classes of each
    row, by default all in order.
    """
    rows = probs.tolist() if hasattr(probs, "tolist") else probs
    numbers = lbl_classes if lbl_classes is not None else [range(len(row)) for row in rows]
    return [
        {_label(mapping, number): value for number, value in zip(labels, row, strict=False)}
        for labels, row in zip(numbers, rows, strict=False)
    ]


def _label(mapping: Mapping[str, Any] | None, number: Any) -> str:
    found = (mapping or {}).get(str(number), number)
    return str(found[-1] if isinstance(found, list) else found)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is: penstock times every execution."""

    @functools.wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        return function(*values, **named)

    return call
