"""Whether torchserve is there, and what handlers get in its place where it is not."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from penstock_runtime.errors import Unsupported

_HOME = "penstock_runtime.backends.torchserve.stand_in"
# What a handler may import, and which module of ours it gets.
_STAND_INS = {
    "ts.context": f"{_HOME}.context",
    "ts.torch_handler.base_handler": f"{_HOME}.base_handler",
    "ts.utils.util": f"{_HOME}.handling",
    "ts.handler_utils.timer": f"{_HOME}.handling",
}
BUILT_IN = ("image_classifier", "image_segmenter", "object_detector", "text_classifier")
BASE = "base_handler"


@dataclass(frozen=True, slots=True)
class Package:
    """torchserve, or what stands in for it: modules that only handlers see, and the two classes
    that the adapter itself makes objects of.
    """

    real: bool
    provided: Mapping[str, ModuleType]
    context: Any
    processor: Any

    def built_in(self, model: str, name: str) -> ModuleType:
        """The module of a handler that torchserve brings; Unsupported where it has to be there."""
        if self.real:
            return importlib.import_module(f"ts.torch_handler.{name}")
        if name == BASE:
            return importlib.import_module(f"{_HOME}.base_handler")
        raise Unsupported(
            f"model '{model}' has the handler {name}, which is a part of torchserve: pip install"
            " torchserve"
        )


def find_package() -> Package:
    """The real package where it is installed, else the stand-in."""
    if _installed():
        module = importlib.import_module("ts.context")
        return Package(True, {}, module.Context, module.RequestProcessor)
    module = importlib.import_module(f"{_HOME}.context")
    return Package(False, StandIns(), module.Context, module.RequestProcessor)


def _installed() -> bool:
    try:
        return importlib.util.find_spec("ts.torch_handler") is not None
    except ImportError:
        return False


class StandIns(Mapping[str, ModuleType]):
    """Every stand-in by the name that handlers know, and the packages above it; imported when
    asked for, since not every handler needs torch.
    """

    def __getitem__(self, name: str) -> ModuleType:
        if name in _STAND_INS:
            return importlib.import_module(_STAND_INS[name])
        if any(known.startswith(f"{name}.") for known in _STAND_INS):
            return _Above(name, self)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_STAND_INS)

    def __len__(self) -> int:
        return len(_STAND_INS)


class _Above(ModuleType):
    """A package that holds stand-ins."""

    def __init__(self, name: str, known: Mapping[str, ModuleType]) -> None:
        super().__init__(name)
        self._known = known

    def __getattr__(self, name: str) -> ModuleType:
        found = None if name.startswith("_") else self._known.get(f"{self.__name__}.{name}")
        if found is None:
            raise AttributeError(f"{self.__name__} has no {name} in penstock")
        return found
