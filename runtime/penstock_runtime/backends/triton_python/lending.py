"""Whether a model sees the arrays that it is given where they are, or copies that it may write to.

Models that were written for Triton may write into their inputs, which are copies there. Whether one
does shows when it fails for it: from then on it gets copies, it and all its instances.
"""

import logging
import re
import threading
from collections.abc import Container
from typing import Any

import numpy as np

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument

KEY = "WRITABLE_INPUTS"
_log = logging.getLogger("penstock.model")
# The words of numpy, of what is compiled against it, and of memoryview.
_REFUSED = re.compile(
    r"\b(array|destination|base|out|byte-swapped) is read-?only|cannot set WRITEABLE flag to True"
    r"|\bmodify read-?only (array|memory)|output array must be contiguous, writable"
)
_CAUSES = 8


class Lending:
    """What one load's instances know; WRITABLE_INPUTS `yes` copies from the start, `no` does not
    learn. The same goes for what other models answer to calls.

    `imported` are the libraries that the model's code imports: torch asks nobody whether it may
    write, so whoever uses it sees only memory that nobody else does.
    """

    def __init__(self, config: ModelConfig, imported: Container[str] = ()) -> None:
        said = _said(config)
        self._model = config.name
        self._imported = imported
        self._lock = threading.Lock()
        self._learns = said is None
        self.copies = bool(said)

    @property
    def learning(self) -> bool:
        """Whether a failure for a write would change anything."""
        return self._learns and not self.copies

    def learn(self, refused: bool) -> bool:
        """What failed was `refused` a write: copy from now on. False if that changes nothing."""
        if not refused or not self._learns:
            return False
        with self._lock:
            known, self.copies = self.copies, True
        if not known:
            _log.warning(
                "model '%s' writes into its inputs, which are read-only: from now on it gets"
                " copies, and what failed is executed once more if nothing of it was answered. Set"
                " the parameter %s of the configuration to yes to have copies from the start, or to"
                " no to have the error",
                self._model,
                KEY,
            )
        return True

    def copied(self, array: Any, *, alone: bool) -> bool:
        """Whether the model sees a copy of this; `alone` if one request has the array, as far as
        is known.
        """
        if self.copies:
            return True
        return "torch" in self._imported and not (alone and of_message(array))


def of_message(array: Any) -> bool:
    """Whether an array lies in bytes that came, not in an array that somebody has made."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, memoryview | bytes | bytearray)


def refused_write(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised for, says that an array may not be written to."""
    for _ in range(_CAUSES):
        if error is None:
            return False
        if says_refused(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_refused(text: str) -> bool:
    """The same of a text."""
    return _REFUSED.search(text) is not None


def _said(config: ModelConfig) -> bool | None:
    """What the parameter says; None for nothing."""
    text = config.parameter(KEY, "").lower()
    if not text:
        return None
    return switch(config, KEY, default=False)


def switch(config: ModelConfig, key: str, *, default: bool) -> bool:
    """A parameter that says yes or no. InvalidArgument for anything else."""
    text = config.parameter(key, "yes" if default else "no").lower()
    if text not in ("yes", "no", "true", "false"):
        raise InvalidArgument(
            f"model '{config.name}': parameter {key} is {text[:64]!r}, expected yes or no"
        )
    return text in ("yes", "true")
