"""The adapters of language models, by the names under which callers may ask for them: that of the
adapter alone, as vLLM has it, or `model:adapter`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from penstock_runtime.config import ModelConfig
from penstock_runtime.model import Model


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with one of its adapters; `path` is the adapter's folder in that of the model."""

    id: str
    model: Model
    adapter: str
    path: str = ""


def adapters_of(config: ModelConfig) -> dict[str, str]:
    """The folders of a model's adapters by their names, as its parameter `adapters` lists them;
    those that come and go (`*=folder`) are not told of.
    """
    entries = (entry.partition("=") for entry in config.parameter("adapters").split(","))
    return {name.strip(): path.strip() for name, _, path in entries if name.strip(" *")}


def adapted(models: Sequence[Model], taken: Collection[str]) -> list[Adapted]:
    """Every adapter of these models. One that has the name of a model (`taken`), or of an adapter
    of another one, is `model:adapter`.
    """
    found = [
        (model, name, path)
        for model in models
        for name, path in sorted(adapters_of(model.config).items())
    ]
    count = Counter(name for _, name, _ in found)
    return [
        Adapted(
            name if count[name] == 1 and name not in taken else f"{model.config.name}:{name}",
            *(model, name, path),
        )
        for model, name, path in found
    ]
