"""The backend for kernels: one of ours by name (parameter `kernel`), or a `model.cu` of the model's
own. On a machine without a GPU the NumPy references answer.
"""

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.files import has_file
from penstock_runtime.backends.kernel import classes, images, pooling, quantised
from penstock_runtime.backends.kernel.cuda import completed_cuda
from penstock_runtime.backends.kernel.form import Form, completed
from penstock_runtime.backends.kernel.model import load_cuda, load_form
from penstock_runtime.backends.kernel.options import KERNEL, Options
from penstock_runtime.backends.kernel.source import FILENAME
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.memory.cupy_driver import cuda_works

FORMS: dict[str, Form] = {
    "image_normalise": images.FORM,
    "mean_pool": pooling.FORM,
    "top_k": classes.FORM,
    "quantise": quantised.QUANTISE_FORM,
    "dequantise": quantised.DEQUANTISE_FORM,
}


class KernelBackend:
    """Kernels, executed in this process."""

    name = "kernel"
    takes_device_arrays = True

    @property
    def uses_gpu(self) -> bool:
        """Whether there is a GPU that CuPy can use."""
        return cuda_works()

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds model.cu and no model.py, which would launch it."""
        return has_file(source, FILENAME) and not has_file(source, "model.py")

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with the tensors of its kernel. InvalidArgument where they differ."""
        form = _form(source.config)
        if form is None:
            return completed_cuda(source.config, self.name)
        options = Options(source.config, form.options)
        return completed(source.config, form.declare(options, source.config), self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """The kernel with its parameters; a model.cu is compiled."""
        form = _form(source.config)
        return load_cuda(source) if form is None else load_form(source, form)


def _form(config: ModelConfig) -> Form | None:
    """The kernel that the configuration names; None where it names none."""
    name = config.parameter(KERNEL).strip()
    if name and name not in FORMS:
        raise InvalidArgument(
            f"model '{config.name}': there is no kernel {name[:64]!r} to serve, expected one of"
            f" {', '.join(FORMS)}, or none and a {FILENAME}"
        )
    return FORMS.get(name)
