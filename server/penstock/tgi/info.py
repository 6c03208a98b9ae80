"""What GET /info tells."""

from collections.abc import Sequence
from typing import Any

from penstock.version import __version__
from penstock_runtime.model import Model

_NUMBERS = {
    "max_model_len": "max_total_tokens",
    "max_num_seqs": "max_concurrent_requests",
    "max_batched_tokens": "max_batch_prefill_tokens",
}


def info(models: Sequence[Model]) -> dict[str, Any]:
    """The first model in TGI's fields, and the names of all."""
    told: dict[str, Any] = {
        "model_id": models[0].config.name if models else None,
        "model_sha": None,
        "model_dtype": models[0].config.parameter("dtype", "auto") if models else None,
        "model_pipeline_tag": "text-generation",
        "models": [model.config.name for model in models],
        "router": "penstock",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
    if models:
        said = {name: models[0].config.parameter(key) for key, name in _NUMBERS.items()}
        told |= {name: int(text) for name, text in said.items() if text.isdecimal()}
    return told
