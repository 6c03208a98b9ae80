"""The backend for language models: a folder of Hugging Face with config.json, tokenizer.json and
model.safetensors, whether it generates, makes embeddings, reranks or classifies.

torch and transformers are imported when the first such model is loaded, not before.
"""

from types import ModuleType

from penstock_runtime.backends.base import LoadedModel, ModelSource
from penstock_runtime.backends.host import prepare_openmp, torch_uses_gpus
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.llm.completing import complete_config
from penstock_runtime.llm.encoders.completion import RESULTS, complete
from penstock_runtime.llm.encoders.folder import config_of, recognise
from penstock_runtime.llm.encoders.spec import labels_of, task_of_source
from penstock_runtime.llm.encoders.task import CLASSIFY, GENERATE
from penstock_runtime.llm.loading import import_alone

# Not needed by a server without language models, which starts sooner without it.
_SERVING = "penstock_runtime.llm.serving"


class LanguageModelBackend:
    """Language models, executed in this process."""

    name = "llm"
    aliases = ()

    @property
    def uses_gpu(self) -> bool:
        """Whether the installed torch is built for it."""
        return torch_uses_gpus()

    def recognises(self, source: ModelSource) -> bool:
        """Whether the version directory holds a config.json with weights or a tokenizer beside."""
        return recognise(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """The configuration with the tensors of the model's task."""
        if task_of_source(source) == GENERATE:
            return complete_config(source.config, config_of(source))
        return complete(source, self.name)

    def load(self, source: ModelSource) -> LoadedModel:
        """The model; the weights of an encoder are read when the first instance asks."""
        generates = task_of_source(source) == GENERATE
        module = import_alone(_SERVING) if generates else _encoders()
        loaded: LoadedModel = module.load(source)
        return loaded

    def labels(self, source: ModelSource) -> Labels:
        """What the classes of a classifier are called, by its config.json."""
        found = labels_of(source)
        return {RESULTS[CLASSIFY]: found} if found else NO_LABELS


def _encoders() -> ModuleType:
    prepare_openmp()
    try:
        return import_alone("penstock_runtime.llm.encoders.model")
    except ImportError as error:
        raise Unsupported(
            "language models need torch, transformers and tokenizers, which are not all installed:"
            " pip install 'penstock[llm]'"
        ) from error
