"""The backends there are, and which of them a model belongs to: by the name in its configuration,
else by its files.

A name is only ever looked up here: nothing is imported by it.
"""

from collections.abc import Sequence

from penstock_runtime.backends.base import Backend, ModelSource
from penstock_runtime.backends.ensemble import EnsembleBackend
from penstock_runtime.backends.files import listing
from penstock_runtime.backends.kernel.backend import KernelBackend
from penstock_runtime.backends.llm.backend import LanguageModelBackend
from penstock_runtime.backends.mlserver.backend import MLServerBackend
from penstock_runtime.backends.onnx.backend import OnnxBackend
from penstock_runtime.backends.python import PythonBackend
from penstock_runtime.backends.torch import TorchBackend
from penstock_runtime.backends.torchserve.backend import TorchServeBackend
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.isolation.settings import is_isolated


class BackendRegistry:
    """The backends of one server, in the order in which they are asked about files.

    Without `isolates` this is the process that a model is to have.
    """

    def __init__(self, backends: Sequence[Backend], *, isolates: bool = True) -> None:
        self._backends = tuple(backends)
        self._isolates = isolates
        self._by_name: dict[str, Backend] = {}
        for backend in self._backends:
            for name in (backend.name, *getattr(backend, "aliases", ())):
                self._by_name[name] = backend

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a configuration may use."""
        return tuple(self._by_name)

    def find(self, source: ModelSource) -> Backend:
        """The backend of a model.

        Raises InvalidArgument for a name that is none of a backend, and for files that none
        recognises. Where the model is to have processes of its own, it works in one.
        """
        found = self._find(source)
        if not (self._isolates and is_isolated(source.config)):
            return found
        from penstock_runtime.isolation.backend import IsolatedBackend

        return IsolatedBackend(found)

    def _find(self, source: ModelSource) -> Backend:
        config = source.config
        for field, name in (
            ("backend", config.backend),
            ("platform", config.platform),
            ("runtime", config.runtime),
        ):
            if name:
                return self._named(config.name, field, name)
        for backend in self._backends:
            if backend.recognises(source):
                return backend
        raise InvalidArgument(
            f"version {source.version} of model '{config.name}' holds nothing that a backend"
            f" recognises, only {listing(source.directory)}; expected model.py, model.pt,"
            " model.pt2, model.onnx, model.cu, model-settings.json, a .mar, or config.json with"
            " model.safetensors and tokenizer.json"
        )

    def _named(self, model: str, field: str, name: str) -> Backend:
        found = self._by_name.get(name)
        if found is None:
            raise InvalidArgument(
                f"model '{model}': {field} is {name[:64]!r}, expected one of"
                f" {', '.join(self._by_name)}"
            )
        return found

    def __repr__(self) -> str:
        return f"<BackendRegistry {', '.join(backend.name for backend in self._backends)}>"


def default_registry(*, isolates: bool = True) -> BackendRegistry:
    """Every backend of penstock. torch itself is imported only when a torch model is loaded."""
    torch = TorchBackend()
    return BackendRegistry(
        [
            EnsembleBackend(),
            MLServerBackend(),
            TorchServeBackend(),
            torch,
            OnnxBackend(),
            PythonBackend(torch),
            KernelBackend(),
            # Last: what lies beside a model.py or a model.onnx is that model's.
            LanguageModelBackend(),
        ],
        isolates=isolates,
    )
