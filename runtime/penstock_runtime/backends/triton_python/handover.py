"""How requests become what models see, and what models answer becomes outputs; one per load."""

import logging
from collections.abc import Container, Mapping
from typing import Any

from penstock_runtime.backends.base import Arrays, RequestTask
from penstock_runtime.backends.triton_python.failures import to_penstock
from penstock_runtime.backends.triton_python.lending import Lending, says_refused, switch
from penstock_runtime.backends.triton_python.request import InferenceRequest, handed_over
from penstock_runtime.backends.triton_python.response import InferenceResponse, parameters_of
from penstock_runtime.backends.triton_python.sender import InferenceResponseSender
from penstock_runtime.backends.triton_python.tensor import Tensor, array_of, datatype_of, foreign
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import DataType, from_numpy
from penstock_runtime.errors import (
    FailureReason,
    Internal,
    PenstockError,
    Unsupported,
)
from penstock_runtime.tensor import to_host

_log = logging.getLogger("penstock.model")

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"


class Handover:
    """What passes between the server and one model.

    Parameters of the configuration: FORCE_CPU_ONLY_INPUT_TENSORS (yes) brings inputs that lie on a
    device to the host, WRITABLE_INPUTS has models write into copies of their inputs: from the start
    (yes), never (no), or once it shows that they do. Unsupported for EXECUTION_ENV_PATH: the code
    runs in this process. `imported` are the libraries that the model's code imports.
    """

    def __init__(self, config: ModelConfig, imported: Container[str] = ()) -> None:
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
        self._on_host = switch(config, _CPU_ONLY, default=True)
        self.lending = Lending(config, imported)
        self._told: set[str] = set()

    # -- in ----------------------------------------------------------------------------------------

    def request(self, task: RequestTask, arrays: Arrays) -> InferenceRequest:
        """The request of a task, with its inputs and its sender."""
        # A step of an ensemble, or a call of another model, has its inputs from others.
        alone = not task.request.depth
        inputs = [self._input(name, array, alone) for name, array in arrays.items()]
        sender = InferenceResponseSender(task, self.deliver, decoupled=self.decoupled)
        return handed_over(task, sender, inputs, list(self._names))

    def _input(self, name: str, array: Any, alone: bool) -> Tensor:
        datatype = self._datatypes.get(name)
        if datatype is None:
            datatype = from_numpy(array.dtype)
        if self._on_host:
            array = to_host(array)
        copies = self.lending.copied(array, alone=alone)
        return foreign(name, datatype, array, copies=copies, alone=alone)

    # -- out ---------------------------------------------------------------------------------------

    def deliver(
        self, task: RequestTask, response: InferenceResponse, last: bool, patience_s: float
    ) -> None:
        """Answer a task with what its model says."""
        error = response.error()
        if error is not None:
            # What is answered is not executed again, but the next request need not fail.
            self.lending.learn(says_refused(error.message()))
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
