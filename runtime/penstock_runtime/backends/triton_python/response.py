"""A response as models see and make it."""

from collections.abc import Sequence
from typing import Any

from penstock_runtime.backends.triton_python.failures import TritonError, TritonModelException
from penstock_runtime.backends.triton_python.parameters import as_json, read_parameters
from penstock_runtime.backends.triton_python.tensor import Tensor
from penstock_runtime.request import Parameters


class InferenceResponse:
    """Outputs, or an error instead; and parameters, which are a dictionary of plain values."""

    __slots__ = ("_error", "_outputs", "_parameters")

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Any = None,
    ) -> None:
        for tensor in output_tensors:
            if not isinstance(tensor, Tensor):
                raise TritonModelException(
                    f"an output is a {type(tensor).__name__}, expected a Tensor"
                )
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException(
                f"the error is a {type(error).__name__}, expected a TritonError"
            )
        self._outputs = list(output_tensors)
        self._error = error
        self._parameters = read_parameters(parameters)

    def output_tensors(self) -> list[Tensor]:
        """The outputs."""
        return self._outputs

    def has_error(self) -> bool:
        """Whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error; None for none."""
        return self._error

    def parameters(self) -> str:
        """The parameters as JSON text."""
        return as_json(self._parameters)

    def __repr__(self) -> str:
        return f"InferenceResponse({self._error or self._outputs!r})"


def parameters_of(response: InferenceResponse) -> Parameters:
    """The parameters as the runtime has them."""
    return response._parameters
