"""A kernel model in memory, and its instances: named arrays in, kernels run, named arrays out."""

from collections.abc import Mapping, Sequence

from penstock_kernels.nvrtc import NvrtcError
from penstock_runtime.backends.base import Arrays, ModelSource, Placement, Staged
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.kernel.cuda import CudaStep, load_reference, no_reference
from penstock_runtime.backends.kernel.form import Form, Step, Tabled
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, place_of
from penstock_runtime.backends.kernel.source import compiled_or_refused, refusal
from penstock_runtime.backends.lost_device import lost_device
from penstock_runtime.backends.module_loader import ModelModules
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import InvalidArgument, PenstockError, Unsupported
from penstock_runtime.memory.staging import Deck


class KernelExecutable(Staged):
    """One instance of a kernel on the CPU or on a GPU."""

    def __init__(self, model: str, step: Step, place: Place) -> None:
        self._model = model
        self._step = step
        self._place = place

    @property
    def deck(self) -> Deck | None:
        """That of its GPU; None on the host."""
        return self._place.deck()

    def tables(self, told: Arrays) -> Arrays:
        """Those of its step, if that has any."""
        return self._step.tables(told) if isinstance(self._step, Tabled) else {}

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:  # noqa: ARG002
        """The outputs of one batch. InvalidArgument for inputs that the kernel refuses."""
        try:
            with self._place.entered():
                return self._step.run(inputs, self._place)
        except PenstockError:
            raise
        except ValueError as refused:
            text = f"model '{self._model}': {refused}"
            raise InvalidArgument(text, scheduled=True) from refused
        except Exception as error:
            self.lost = lost_device(error)
            raise execution_failure(error, self._model) from error

    def close(self) -> None:
        """There is nothing of its own to give back."""


class LoadedKernel:
    """One of our kernels with its parameters."""

    def __init__(self, model: str, step: Step) -> None:
        self._model = model
        self.step = step

    def executable(self, placement: Placement) -> KernelExecutable:
        """An instance on the device, the kernel loaded there."""
        place = place_of(placement)
        place.load(self.step.kernel)
        return KernelExecutable(self._model, self.step, place)

    def close(self) -> None:
        """What was compiled serves every model of this kernel, and stays."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: it has no weights."""
        return {}


class LoadedCuda:
    """A model's own kernel, and the reference that stands for it."""

    def __init__(self, source: ModelSource, step: CudaStep, modules: ModelModules | None) -> None:
        self._model = source.config.name
        self._modules = modules
        self._places: list[Place] = []
        self.step = step

    def executable(self, placement: Placement) -> KernelExecutable:
        """An instance on the device; FailedPrecondition on a CPU without a reference."""
        place = place_of(placement)
        kernel = self.step.kernel
        if not (place.runs_cuda or self.step.has_reference):
            raise no_reference(self._model)
        self._places.append(place)
        try:
            place.load(kernel)
        except NvrtcError as refused:
            raise refusal(self._model, kernel, str(refused)) from None
        return KernelExecutable(self._model, self.step, place)

    def close(self) -> None:
        """Unload the machine code, and forget the reference's modules."""
        for place in self._places:
            place.forget(self.step.kernel)
        if self._modules is not None:
            self._modules.close()

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing: it has no weights."""
        return {}


def load_form(source: ModelSource, form: Form) -> LoadedKernel:
    """One of our kernels, with the parameters of this configuration."""
    options = Options(source.config, form.options)
    return LoadedKernel(source.config.name, form.make(options, source))


def load_cuda(source: ModelSource) -> LoadedCuda:
    """A model.cu, compiled wherever there is a compiler, so that a broken one is refused here too.

    InvalidArgument names the lines; Unsupported where only a compiler is missing.
    """
    reference, modules = load_reference(source)
    try:
        step = CudaStep(source, reference)
        if not compiled_or_refused(source, step.kernel) and reference is None:
            raise Unsupported(
                f"model '{source.config.name}': model.cu needs NVRTC, which is not installed: it"
                " comes with CUDA or the package nvidia-cuda-nvrtc"
            )
    except BaseException:
        if modules is not None:
            modules.close()
        raise
    return LoadedCuda(source, step, modules)
