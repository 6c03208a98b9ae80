"""Laws of memory that ran out: whoever says so, and whenever, the caller is told the same, and of
the machine nothing.
"""

from typing import Any

import pytest

from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.errors import FailureReason, Internal, ResourceExhausted
from penstock_runtime.execution import as_penstock_error
from penstock_runtime.exhausted import out_of_memory


def named(name: str, base: type[Exception] = RuntimeError, **attributes: Any) -> Exception:
    """An exception of a library that is not here."""
    kind: type[Exception] = type(name, (base,), attributes)
    return kind("tried to allocate 20.00 GiB on /dev/gpu/0")


EXHAUSTED = [
    MemoryError("Unable to allocate 20 GiB"),
    named("OutOfMemoryError"),
    named("OutOfMemoryError", MemoryError),
    named("CUDARuntimeError", status=2),
]
OTHERS = [
    RuntimeError("CUDA out of memory, perhaps"),
    named("CUDARuntimeError", status=700),
    named("Unlike", status=2),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=repr)
def test_memory_that_ran_out_is_resource_exhausted(error: Exception) -> None:
    """While the model executes, and while its batch is put together."""
    for told in (execution_failure(error, "m"), as_penstock_error("m_0", error)):
        assert type(told) is ResourceExhausted
        assert told.reason == "OUT_OF_MEMORY"
        assert told.failure is FailureReason.BACKEND
        assert told.scheduled
        assert "GiB" not in told.message


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_whatever_else_a_model_raises_is_internal(error: Exception) -> None:
    assert not out_of_memory(error)
    assert type(execution_failure(error, "m")) is Internal
    assert type(as_penstock_error("m_0", error)) is Internal
