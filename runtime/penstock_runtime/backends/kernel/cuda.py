"""A `model.cu` as a model: on a GPU it is compiled and launched as its configuration says, on a CPU
the function `reference` of `reference.py` stands for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel, Launch, Traffic
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.completion import told_types
from penstock_runtime.backends.failure import execution_failure, load_failure
from penstock_runtime.backends.files import confined, has_file
from penstock_runtime.backends.kernel.launch import OPTIONS, SHAPE, LaunchPlan
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, kernel_dtype
from penstock_runtime.backends.kernel.source import named, read_source
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.batch_cast import PARAMETER as CAST
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import FailedPrecondition, InvalidArgument, PenstockError

REFERENCE = "reference.py"
Function = Callable[..., Any]


class CudaStep:
    """The kernel of one model.cu: shapes, launch, outputs."""

    def __init__(self, source: ModelSource, reference: Function | None) -> None:
        config = source.config
        self._plan = LaunchPlan(options_of(config), config)
        self._model = config.name
        self._inputs = {name: kernel_dtype(found) for name, found in _readable(config).items()}
        self._outputs = {o.name: kernel_dtype(o.data_type) for o in config.output}
        self._reference = reference
        self.kernel = named(self._declare(read_source(source)))

    @property
    def has_reference(self) -> bool:
        """Whether a CPU can stand for the GPU."""
        return self._reference is not None

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The outputs of one batch; what the kernel leaves of them is zero."""
        taken = {name: place.take(inputs[name], dtype) for name, dtype in self._inputs.items()}
        shapes = self._plan.output_shapes({n: tuple(a.shape) for n, a in taken.items()})
        made = {n: place.zeros(shapes[n], dtype) for n, dtype in self._outputs.items()}
        place.run(self.kernel, **taken, **made)
        return made

    def _declare(self, text: str) -> Kernel:
        return Kernel(
            name=self._model,
            source="",
            instances=(self._plan.function,),
            outputs=tuple(self._outputs),
            plan=self._launches,
            reference=self._compute,
            traffic=_traffic,
            text=text,
        )

    def _launches(self, **tensors: Any) -> list[Launch]:
        return self._plan.launches(tensors)

    def _compute(self, **tensors: Any) -> None:
        """What the model's own function makes of the inputs, written into the outputs."""
        if self._reference is None:
            raise no_reference(self._model)
        try:
            returned = self._reference(**{name: tensors[name] for name in self._inputs})
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise execution_failure(error, self._model) from error
        for name, array in self._named(returned).items():
            wanted = tensors[name]
            found = np.asarray(array)
            if found.shape != wanted.shape:
                raise RuntimeError(
                    f"reference gives '{name}' of shape {list(found.shape)}, the launch plan"
                    f" {list(wanted.shape)}"
                )
            with np.errstate(over="ignore"):
                wanted[...] = found.astype(wanted.dtype, casting="same_kind")

    def _named(self, returned: Any) -> Mapping[str, Any]:
        names = list(self._outputs)
        if isinstance(returned, Mapping):
            found = dict(returned)
        else:
            parts = returned if isinstance(returned, tuple) else (returned,)
            found = dict(zip(names, parts, strict=False)) if len(parts) == len(names) else {}
        if set(found) != set(names):
            raise RuntimeError(f"reference does not give the outputs {', '.join(names)}")
        return found


def options_of(config: ModelConfig) -> Options:
    """The parameters of such a model, checked."""
    shapes = (f"{SHAPE}{output.name}" for output in config.output)
    return Options(config, (*OPTIONS, CAST, *shapes))


def _readable(config: ModelConfig) -> dict[str, DataType]:
    """What a kernel may read, by name: inputs as they are after a cast, and what tells of the
    batch.
    """
    casts = casts_of(config)
    return {**{i.name: casts.get(i.name, i.data_type) for i in config.input}, **told_types(config)}


def completed_cuda(config: ModelConfig, backend: str) -> ModelConfig:
    """The configuration, which has to say everything itself. InvalidArgument for what is not."""
    tensors: tuple[ModelInput | ModelOutput, ...] = (*config.input, *config.output)
    if not (config.input and config.output):
        raise InvalidArgument(
            f"model '{config.name}': model.cu does not say what it takes and gives; list input and"
            " output in the configuration"
        )
    told = told_types(config).items()
    for name, datatype in (*((tensor.name, tensor.data_type) for tensor in tensors), *told):
        if datatype is DataType.BYTES or not name.isidentifier():
            raise InvalidArgument(
                f"model '{config.name}': '{name}' is {datatype.value}, expected numbers under a"
                " name that CUDA could have"
            )
    if any(tensor.optional for tensor in config.input):
        raise InvalidArgument(f"model '{config.name}': model.cu takes no optional input")
    if len({*(tensor.name for tensor in tensors), *dict(told)}) != len(tensors) + len(told):
        raise InvalidArgument(f"model '{config.name}': an input and an output share a name")
    LaunchPlan(options_of(config), config)
    return replace(config, backend=config.backend or backend)


def load_reference(source: ModelSource) -> tuple[Function | None, ModelModules | None]:
    """The function `reference` of reference.py, and its modules; None without such a file."""
    if not has_file(source, REFERENCE):
        return None, None
    path = confined(source, REFERENCE)
    modules = ModelModules(source.directory)
    try:
        found = getattr(modules.load(path), "reference", None)
        if not callable(found):
            raise InvalidArgument(
                f"model '{source.config.name}': {REFERENCE} has no function 'reference'"
            )
    except InvalidArgument:
        modules.close()
        raise
    except (Exception, SystemExit) as error:
        modules.close()
        raise load_failure(error, source.config.name, REFERENCE) from error
    return found, modules


def no_reference(model: str) -> FailedPrecondition:
    """Why such a model is not served on a CPU."""
    return FailedPrecondition(
        f"model '{model}': model.cu needs a CUDA device with CuPy, which its instances do not have"
        f" here; a function reference(...) in 1/{REFERENCE} would stand for it on a CPU"
    )


def _traffic(**tensors: Any) -> Traffic:
    return Traffic(sum(array.nbytes for array in tensors.values()))
