"""An encoder's module, filled with the weights of its folder, on one device.

Nothing is unpickled, no code of the folder is executed, nothing is fetched.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.failure import load_failure
from penstock_runtime.backends.torch_program import read_safetensors
from penstock_runtime.errors import InvalidArgument, PenstockError, Unsupported
from penstock_runtime.llm.encoders.folder import CONFIG, FolderFiles
from penstock_runtime.llm.encoders.spec import EncoderSpec
from penstock_runtime.llm.encoders.task import EMBED, architecture_of
from penstock_runtime.llm.loading import LOADING

# What a folder may say that fetches or executes something, or is ours to decide.
_DROPPED = frozenset(
    {"auto_map", "attn_implementation", "dtype", "torch_dtype", "reference_compile"}
)
# The pooler is a head of the pre-training; nothing here asks for it.
_UNUSED = "pooler."
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class EncoderModule:
    """A module and what its forward takes beside the token ids."""

    module: Any
    takes_types: bool
    takes_cache: bool
    dtype: torch.dtype

    def tensors(self) -> list[torch.Tensor]:
        """Parameters and buffers."""
        return [*self.module.parameters(), *self.module.buffers()]


def load_module(
    source: ModelSource, spec: EncoderSpec, files: FolderFiles, device: torch.device
) -> EncoderModule:
    """The module on its device. Raises what is wrong with the folder, by the names of its files."""
    weights: dict[str, torch.Tensor] = {}
    for path in files.weights:
        weights.update(read_safetensors(path))
    dtype = _dtype(spec, weights, device)
    try:
        with LOADING:
            module = _filled(spec, weights, dtype)
    except PenstockError:
        raise
    except Exception as error:
        raise load_failure(error, source.config.name, CONFIG) from error
    module.to(device).eval().requires_grad_(False)
    parameters = inspect.signature(module.forward).parameters
    kinds = spec.config_json.get("type_vocab_size", getattr(module.config, "type_vocab_size", 0))
    return EncoderModule(
        module,
        takes_types=(
            spec.token_types and "token_type_ids" in parameters and type(kinds) is int and kinds > 1
        ),
        takes_cache="use_cache" in parameters,
        dtype=dtype,
    )


def _filled(spec: EncoderSpec, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
    # Its report of unused weights is no news: the pooler is left out on purpose.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = _config(spec)
    made = _class(spec, config)
    more: dict[str, Any] = {}
    if "add_pooling_layer" in inspect.signature(made.__init__).parameters:
        more["add_pooling_layer"] = False
    module, report = made.from_pretrained(
        None,
        config=config,
        state_dict=dict(weights),
        dtype=dtype,
        attn_implementation="sdpa" if getattr(made, "_supports_sdpa", False) else "eager",
        output_loading_info=True,
        **more,
    )
    _check_report(spec, report)
    return module


def _config(spec: EncoderSpec) -> Any:
    kind = str(spec.config_json.get("model_type", ""))
    if kind not in transformers.CONFIG_MAPPING:
        raise Unsupported(
            f"model '{spec.model}': {CONFIG} has the model_type {kind[:64]!r}, which transformers"
            f" {transformers.__version__} does not know",
            reason="NOT_AVAILABLE",
        )
    said = {
        key: value
        for key, value in spec.config_json.items()
        if key not in _DROPPED and not key.startswith("_")
    }
    return transformers.CONFIG_MAPPING[kind].from_dict(said)


def _class(spec: EncoderSpec, config: Any) -> Any:
    name = architecture_of(spec.config_json)
    if spec.task == EMBED and name.endswith("EncoderModel"):
        return getattr(transformers, name)
    embeds = spec.task == EMBED
    known = (
        transformers.MODEL_MAPPING
        if embeds
        else transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    )
    if type(config) not in known:
        raise Unsupported(
            f"model '{spec.model}': {CONFIG} has the model_type {config.model_type!r}, for which"
            f" transformers has no {'encoder' if embeds else 'classifier'}",
            reason="NOT_AVAILABLE",
        )
    return known[type(config)]


def _check_report(spec: EncoderSpec, report: Mapping[str, Any]) -> None:
    """A weight that is not in the file would be random, and so would every answer."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED))
    uneven = sorted(str(key) for key in report.get("mismatched_keys", ()))
    if not missing and not uneven:
        return
    wrong = missing or uneven
    shown = ", ".join(key[:96] for key in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    what = "the weights lack" if missing else f"{CONFIG} and the weights differ in the shape of"
    raise InvalidArgument(f"model '{spec.model}': {what} {shown}{more}")


def _dtype(
    spec: EncoderSpec, weights: Mapping[str, torch.Tensor], device: torch.device
) -> torch.dtype:
    """What is asked for; else float32 on a CPU, and on a GPU what the weights are stored in."""
    if spec.dtype != "auto":
        chosen = getattr(torch, spec.dtype)
        assert isinstance(chosen, torch.dtype)
        return chosen
    stored = next((w.dtype for w in weights.values() if w.is_floating_point()), torch.float32)
    if device.type == "cpu" or stored not in (torch.bfloat16, torch.float16):
        return torch.float32
    return stored
