"""How requests become what models see, and what models answer becomes outputs; one per load."""

import logging
from collections.abc import Mapping
from typing import Any

from penstock_runtime.backends.base import Arrays, RequestTask
from penstock_runtime.backends.triton_python.failures import to_penstock
from penstock_runtime.backends.triton_python.request import InferenceRequest, handed_over
from penstock_runtime.backends.triton_python.response import InferenceResponse, parameters_of
from penstock_runtime.backends.triton_python.sender import InferenceResponseSender
from penstock_runtime.backends.triton_python.tensor import Tensor, array_of, datatype_of, foreign
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import DataType, from_numpy
from penstock_runtime.errors import (
    FailureReason,
    Internal,
    InvalidArgument,
    PenstockError,
    Unsupported,
)
from penstock_runtime.tensor import to_host

_log = logging.getLogger("penstock.model")

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"
_WRITABLE = "WRITABLE_INPUTS"


class Handover:
    """What passes between the server and one model.

    Parameters of the configuration: FORCE_CPU_ONLY_INPUT_TENSORS (yes) brings inputs that lie on a
    device to the host, WRITABLE_INPUTS (no) has models write into copies of their inputs.
    Unsupported for EXECUTION_ENV_PATH: the code runs in this process.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.parameter(_ENVIRONMENT):
            raise Unsupported(
                f"model '{config.name}': parameter {_ENVIRONMENT} names another environment, and"
                " models run in the server's own process: install what it needs beside the server"
            )
        if config.batch_input or config.batch_output:
            raise Unsupported(
                f"model '{config.name}': batch_input and batch_output are about batches, and models"
                " of Triton's Python backend are handed the requests themselves"
            )
        if config.sequence_batching is not None and config.sequence_batching.state:
            raise Unsupported(
                f"model '{config.name}': states of sequences are for models that are handed"
                " batches, keep them in the model"
            )
        self.model = config.name
        self.decoupled = config.decoupled
        self._datatypes = _input_datatypes(config)
        self._declared = {output.name: output.data_type for output in config.output}
        self._names = list(self._declared)
        self._on_host = _switch(config, _CPU_ONLY, default=True)
        self._copies = _switch(config, _WRITABLE, default=False)
        self._told: set[str] = set()

    # -- in ----------------------------------------------------------------------------------------

    def request(self, task: RequestTask) -> InferenceRequest:
        """The request of a task, with its own inputs and its sender."""
        inputs = [self._input(name, array) for name, array in task.arrays.items()]
        sender = InferenceResponseSender(task, self.deliver, decoupled=self.decoupled)
        return handed_over(task, sender, inputs, list(self._names))

    def _input(self, name: str, array: Any) -> Tensor:
        datatype = self._datatypes.get(name)
        if datatype is None:
            datatype = from_numpy(array.dtype)
        if self._on_host:
            array = to_host(array)
        return foreign(name, datatype, array, copies=self._copies)

    # -- out ---------------------------------------------------------------------------------------

    def deliver(
        self, task: RequestTask, response: InferenceResponse, last: bool, patience_s: float
    ) -> None:
        """Answer a task with what its model says."""
        error = response.error()
        if error is not None:
            task.fail(to_penstock(error))
            return
        try:
            outputs = self._outputs(response)
        except PenstockError as broken:
            task.fail(broken)
            return
        task.send(outputs, parameters_of(response), last=last, patience_s=patience_s)

    def _outputs(self, response: InferenceResponse) -> Arrays:
        outputs: dict[str, Any] = {}
        for tensor in response.output_tensors():
            name = tensor.name()
            declared = self._declared.get(name)
            if declared is None:
                self._unknown(name)
            elif datatype_of(tensor) is not declared:
                raise Internal(
                    f"output '{name}' of model '{self.model}' is {datatype_of(tensor).value},"
                    f" expected {declared.value}",
                    failure=FailureReason.BACKEND,
                    scheduled=True,
                )
            else:
                outputs[name] = array_of(tensor)
        return outputs

    def _unknown(self, name: str) -> None:
        """As in Triton, an output that nobody can ask for does no harm; once it is said."""
        if not self._told:
            self._told.add(name)
            _log.warning(
                "model '%s' gives an output '%s', which its configuration does not have: left out",
                self.model,
                name[:128],
            )


def _input_datatypes(config: ModelConfig) -> Mapping[str, DataType]:
    """The datatypes of inputs; of those that schedulers add, as far as they are said."""
    known = {declared.name: declared.data_type for declared in config.input}
    for extra in config.batch_input:
        known.update(dict.fromkeys(extra.target_name, extra.data_type))
    if config.sequence_batching is not None:
        for state in config.sequence_batching.state:
            known[state.input_name] = state.data_type
    return known


def _switch(config: ModelConfig, key: str, *, default: bool) -> bool:
    text = config.parameter(key, "yes" if default else "no").lower()
    if text not in ("yes", "no", "true", "false"):
        raise InvalidArgument(
            f"model '{config.name}': parameter {key} is {text[:64]!r}, expected yes or no"
        )
    return text in ("yes", "true")
