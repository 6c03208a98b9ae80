"""One instance of a torch model: named arrays in, one call under inference mode, named tensors out.

Outputs stay on the device; whoever needs them elsewhere moves them.
"""

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from penstock_runtime.backends.base import Arrays, Staged
from penstock_runtime.backends.completion import kept_outputs, provided_inputs, provided_types
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.lost_device import lost_device
from penstock_runtime.backends.outputs import OutputPlan
from penstock_runtime.backends.torch_deck import TorchDeck, deck_of
from penstock_runtime.backends.torch_graphs import (
    Bucket,
    GraphedCall,
    Recorder,
    buckets_of,
    recorder_of,
)
from penstock_runtime.backends.torch_program import Parameter, TorchProgram
from penstock_runtime.backends.torch_tensors import as_tensor, to_torch, torch_dtype
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.signature_annotations import OutputForm

_log = logging.getLogger("penstock.model")
_INDEXED = re.compile(r".*__(\d+)")


class TorchPlan:
    """How the tensors of one model's configuration meet the parameters of its program."""

    def __init__(self, config: ModelConfig, parameters: Sequence[Parameter]) -> None:
        self.model = config.name
        self.has_rows = config.has_rows
        self.keys = parameter_keys(config, parameters)
        self.datatypes = {declared.name: declared.data_type for declared in config.input}
        self.datatypes.update(provided_types(config))
        self.datatypes.update(casts_of(config))
        _refuse_bytes(config)
        outputs = (*config.output, *kept_outputs(config))
        self._indices = _indices(list(dict.fromkeys(output.name for output in outputs)))
        batched = config.max_batch_size > 0
        self.outputs = OutputPlan(
            config.name, outputs, (), OutputForm.UNKNOWN, as_tensor, batched=batched
        )

    def results(
        self, returned: Any, rows: int | None, contexts: Sequence[RequestContext]
    ) -> dict[str, Any]:
        """The outputs of one call, whatever shape it returned them in."""
        if isinstance(returned, list):
            returned = tuple(returned)
        if self._indices and isinstance(returned, tuple) and not hasattr(returned, "_asdict"):
            returned = {n: returned[i] for n, i in self._indices.items() if i < len(returned)}
        return self.outputs.arrays(returned, rows, contexts)


def _refuse_bytes(config: ModelConfig) -> None:
    tensors: tuple[ModelInput | ModelOutput, ...] = (*config.input, *config.output)
    for declared in tensors:
        if declared.data_type is DataType.BYTES:
            raise InvalidArgument(
                f"model '{config.name}': '{declared.name}' is BYTES, which torch does not have"
            )


def parameter_keys(config: ModelConfig, parameters: Sequence[Parameter]) -> dict[str, str]:
    """Input names to parameter keys: by equal names, by Triton's NAME__index, else by position.

    Raises InvalidArgument when they cannot be brought together.
    """
    names = [*(declared.name for declared in config.input), *provided_inputs(config)]
    by_name = {parameter.name: parameter.key for parameter in parameters}
    indices = _indices(names)
    if all(name in by_name for name in names):
        keys = {name: by_name[name] for name in names}
    elif any(name in by_name for name in names) or len(names) > len(parameters):
        raise _mismatch(config, names, parameters)
    elif indices:
        if max(indices.values()) >= len(parameters):
            raise _mismatch(config, names, parameters)
        keys = {name: parameters[index].key for name, index in indices.items()}
    else:
        keys = {n: p.key for n, p in zip(names, parameters, strict=False)}
    if any(p.required and p.key not in keys.values() for p in parameters):
        raise _mismatch(config, names, parameters)
    return keys


def _indices(names: Sequence[str]) -> dict[str, int]:
    """The index of each name if all end in __index and no index comes twice, else nothing."""
    matches = {name: _INDEXED.fullmatch(name) for name in names}
    indices = {name: int(match[1]) for name, match in matches.items() if match}
    unique = len(set(indices.values())) == len(names)
    return indices if unique and len(indices) == len(names) else {}


def _mismatch(
    config: ModelConfig, names: Sequence[str], parameters: Sequence[Parameter]
) -> InvalidArgument:
    takes = ", ".join(p.name if p.required else f"{p.name} (optional)" for p in parameters)
    return InvalidArgument(
        f"model '{config.name}': the configuration has the inputs {', '.join(names)}, but forward"
        f" takes {takes}; name them alike, or NAME__0, NAME__1 by position"
    )


class TorchExecutable(Staged):
    """An instance; its weights are those of every other instance on the device."""

    def __init__(self, plan: TorchPlan, program: TorchProgram, device: torch.device) -> None:
        self._plan = plan
        self.program: TorchProgram | None = program
        self.device = device
        self._names = {key: name for name, key in plan.keys.items()}
        self.graphed = GraphedCall(program.call, plan.model)

    @property
    def deck(self) -> TorchDeck | None:
        """The GPU's; None on the CPU, where batches are best merged as they always are."""
        return deck_of(self.device)

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch, on the device. Raises the model's failure."""
        try:
            return self._execute(inputs, contexts)
        except PenstockError:
            raise
        except Exception as error:
            self.lost = lost_device(error)
            raise execution_failure(error, self._plan.model) from error

    def _execute(
        self, inputs: Arrays, contexts: Sequence[RequestContext]
    ) -> Mapping[str, torch.Tensor]:
        plan, program = self._plan, self.program
        assert program is not None, "the instance has been closed"
        with torch.inference_mode(), _on(self.device):
            values, rows = {}, None
            for name, array in inputs.items():
                datatype = plan.datatypes.get(name, DataType.FP32)
                values[plan.keys[name]] = to_torch(array, datatype, self.device)
                rows = int(array.shape[0]) if plan.has_rows else None
            return plan.results(self.graphed(values, self._names), rows, contexts)

    def warm_up(self, config: ModelConfig) -> None:
        """Call the program with zeros so often that what it compiles lazily is compiled.

        A model that does not take zeros or a length of 1 is none the worse for it.
        """
        self._warm_up(config)
        recorder = recorder_of(self.device)
        if recorder is not None and not provided_inputs(config):
            self.capture(buckets_of(config), recorder)

    def capture(self, buckets: Sequence[Bucket], recorder: Recorder) -> None:
        """Capture graphs; batches that fit them replay them from now on."""
        with torch.inference_mode(), _on(self.device):
            self.graphed.capture(buckets, self._static, recorder)

    def _static(self, bucket: Bucket) -> dict[str, torch.Tensor]:
        """The inputs that a graph reads, zero so far."""
        plan = self._plan
        return {
            plan.keys[name]: torch.zeros(
                (bucket.rows, *dims), dtype=torch_dtype(plan.datatypes[name]), device=self.device
            )
            for name, dims in bucket.dims.items()
        }

    def _warm_up(self, config: ModelConfig) -> None:
        program = self.program
        uneven = config.max_batch_size > 0 and not config.has_rows
        if program is None or config.model_warmup or provided_inputs(config) or uneven:
            return
        try:
            for _ in range(program.warm_calls):
                self._execute(self._zeros(config), [])
        except Exception as error:
            _log.info("model '%s' was not warmed with zeros: %s", config.name, error)

    def _zeros(self, config: ModelConfig) -> dict[str, torch.Tensor]:
        first = (1,) if self._plan.has_rows else ()
        zeros = {}
        for declared in config.input:
            dims = declared.reshape.shape if declared.reshape else declared.dims
            shape = (*first, *(1 if dim == -1 else dim for dim in dims))
            datatype = self._plan.datatypes[declared.name]
            zeros[declared.name] = torch.zeros(shape, dtype=torch_dtype(datatype))
        return zeros

    def close(self) -> None:
        """Let go of the program and its graphs."""
        self.program = None
        self.graphed = GraphedCall(_closed, self._plan.model)


def _closed(_values: Any) -> Any:
    """Stands for the program of an instance that has been closed."""


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
