"""Which requests may be part of a sequence, and under which id; the texts are those that Triton's
clients match on.
"""

from collections.abc import Iterator
from itertools import count
from typing import NoReturn

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import SequenceBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.sequence import SequenceId

CORRID = "CONTROL_SEQUENCE_CORRID"
# Triton's limit too; an id is a key of ours for as long as its sequence lives.
MOST_ID_BYTES = 128
_SIGN, _WRAP = 1 << 63, 1 << 64
_RANGES = {
    DataType.INT32: (-(1 << 31), 1 << 31),
    DataType.UINT32: (0, 1 << 32),
}


class SequenceIds:
    """Checks the ids of one model's requests; makes them for requests that are a sequence each."""

    def __init__(self, config: ModelConfig, rules: SequenceBatching) -> None:
        self._model = config.name
        self._control, self._datatype = _id_control(rules)
        self._made: Iterator[int] | None = count(1) if rules.iterative_sequence else None

    def of(self, pending: Pending) -> SequenceId:
        """The id of the request's sequence; InvalidArgument for a request that cannot have one."""
        identity = pending.request.correlation_id
        if pending.batch_size != 1:
            self._refuse(
                f"inference request to model '{self._model}' must specify batch-size 1 due to "
                "requirements of sequence batcher"
            )
        if not identity:
            if self._made is None:
                self._refuse(
                    f"inference request to model '{self._model}' must specify a non-zero or "
                    "non-empty correlation ID"
                )
            identity = self._own(next(self._made))
        self._check(identity)
        return identity

    def no_start(self, identity: SequenceId) -> InvalidArgument:
        """The error of a request that is not the first of a sequence that is not known."""
        return _error(
            f"inference request for sequence {shown_id(identity)} to model '{self._model}' must "
            "specify the START flag on the first request of the sequence"
        )

    def _check(self, identity: SequenceId) -> None:
        is_text = isinstance(identity, str)
        size = len(identity.encode()) if isinstance(identity, str) else 0
        if size > MOST_ID_BYTES:
            self._refuse(
                f"the correlation ID of an inference request to model '{self._model}' has {size} "
                f"bytes, expected at most {MOST_ID_BYTES}"
            )
        if self._datatype is None:
            return
        if is_text != (self._datatype is DataType.BYTES):
            found = "BYTES" if is_text else "UINT64"
            self._refuse(
                f"sequence batching control '{self._control}' data-type is '{found}', but model "
                f"'{self._model}' expects '{self._datatype.value}'"
            )
        low, high = _RANGES.get(self._datatype, (0, 0))
        if isinstance(identity, int) and high and not low <= _in_range(identity, low) < high:
            # Cut to 32 bits it would be another sequence's.
            self._refuse(
                f"correlation ID {identity} does not fit sequence batching control "
                f"'{self._control}' of model '{self._model}', which is '{self._datatype.value}'"
            )

    def _own(self, number: int) -> SequenceId:
        """An id for a request that brought none."""
        if self._datatype is DataType.BYTES:
            return f"request-{number}"
        return number % ((1 << 31) - 1) + 1

    @staticmethod
    def _refuse(text: str) -> NoReturn:
        raise _error(text)


def signed(identity: int) -> int:
    """The 64 bits of an id as a number with sign."""
    return identity - _WRAP if identity >= _SIGN else identity


def shown_id(identity: SequenceId) -> str:
    """An id as an error repeats it."""
    text = str(identity)
    return text if text.isprintable() else ascii(text)[1:-1]


def _in_range(identity: int, low: int) -> int:
    return signed(identity) if low < 0 else identity


def _id_control(rules: SequenceBatching) -> tuple[str, DataType | None]:
    """The input that carries the ids, and their datatype; None where the model does not ask."""
    for control_input in rules.control_input:
        for control in control_input.control:
            if control.kind == CORRID:
                return control_input.name, control.data_type
    return "", None


def _error(text: str) -> InvalidArgument:
    return InvalidArgument(text, reason="BAD_SEQUENCE", scheduled=True)
