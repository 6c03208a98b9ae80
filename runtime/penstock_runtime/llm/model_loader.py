"""Loads a causal language model from a Hugging Face folder: a config.json and safetensors. Never a
pickle, never code of the folder, never the network.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as hf_logging

from penstock_runtime.backends.failure import summary
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.llm import fused_layer, fusion, gate, gate_trial
from penstock_runtime.llm.causal_model import (
    LoadedCausalModel,
    eos_token_ids,
    held_bytes,
    longest,
)
from penstock_runtime.llm.gate import Refused
from penstock_runtime.llm.loading import LOADING
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.quantise import quantise_model
from penstock_runtime.llm.weights_reader import StoredWeights, read_json, weight_files

_log = logging.getLogger("penstock.llm")
CONFIG = "config.json"
DTYPES = {
    "auto": None,
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
Progress = Callable[[int, int], None]


def load_causal_model(
    directory: Path | str,
    options: EngineOptions,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> LoadedCausalModel:
    """The model of a folder on a device. `progress` is told bytes read and bytes in all. Raises
    InvalidArgument for a folder that is none.
    """
    folder = Path(directory)
    dtype = _dtype(options.dtype)
    config = _config(folder)
    weights = StoredWeights(weight_files(folder), progress)
    dtype = dtype or _float_dtype(getattr(config, "dtype", None)) or weights.dtype
    module = _read(config, weights, dtype)
    generation = folder / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if ends is not None:
        module.generation_config.eos_token_id = ends
    return prepare(module.to(device), options)


def prepare(module: Any, options: EngineOptions) -> LoadedCausalModel:
    """A module of transformers, looked at and made ready to run."""
    module.eval().requires_grad_(False)
    report = quantise_model(
        module,
        options.quantization,
        kernels=options.cpu_kernels,
        cuda_kernels=options.cuda_kernels,
    )
    if report.layers:
        _log.info("%s: %s", type(module).__name__, report)
    config = module.config.get_text_config()
    loaded = LoadedCausalModel(
        model=module,
        config=config,
        vocab_size=config.vocab_size,
        max_model_len=options.max_model_len or longest(config),
        eos_token_ids=eos_token_ids(module),
        dtype=module.dtype,
        device=module.device,
        paged=False,
        reason="",
        shapes=(),
        memory_bytes=held_bytes(module),
    )
    before = module.config._attn_implementation
    try:
        return _paged(loaded, options)
    except Refused as refusal:
        module.set_attn_implementation(before)
        _log.info("%s runs request by request: %s", type(module).__name__, refusal)
        return replace(loaded, reason=str(refusal))


def _paged(loaded: LoadedCausalModel, options: EngineOptions) -> LoadedCausalModel:
    shapes = gate.layer_shapes(loaded.model, loaded.max_model_len)
    expected = gate_trial.plain_logits(loaded.model, loaded.vocab_size)
    loaded = replace(loaded, paged=True, shapes=shapes)
    gate_trial.check_packed(loaded, options, expected)
    if not _fuses(loaded, options):
        return loaded
    modules = fusion.fuse(loaded.model, loaded.dtype)
    layers = fused_layer.fuse_layers(loaded.model, loaded)
    _log.info("%s: %d modules fused, %d layers", type(loaded.model).__name__, modules, layers)
    gate_trial.check_packed(loaded, options, expected)
    return replace(loaded, memory_bytes=held_bytes(loaded.model))


def _fuses(loaded: LoadedCausalModel, options: EngineOptions) -> bool:
    """Whether weights may be laid out anew: adapters and quantisers need them as they are."""
    return loaded.device.type == "cpu" and options.cpu_kernels != "off"


# -- the folder ------------------------------------------------------------------------------------


def _dtype(name: str) -> torch.dtype | None:
    if name not in DTYPES:
        raise InvalidArgument(f"dtype is {name[:32]!r}, expected auto, fp32, bf16 or fp16")
    return DTYPES[name]


def _float_dtype(named: object) -> torch.dtype | None:
    """The dtype of a configuration, where it is one that a model can run in."""
    if isinstance(named, str):
        named = getattr(torch, named, None)
    return named if isinstance(named, torch.dtype) and named in DTYPES.values() else None


def _config(folder: Path) -> Any:
    document = read_json(folder / CONFIG)
    kind = document.get("model_type")
    if not isinstance(kind, str):
        raise InvalidArgument(f"{CONFIG} has no model_type")
    if document.get("quantization_config") is not None:
        raise InvalidArgument(f"{CONFIG} has a quantization_config, which is not read")
    try:
        with LOADING:
            return AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        own = " by code of its own, which is not run" if "auto_map" in document else ""
        raise InvalidArgument(
            f"{CONFIG} describes a model of type {kind[:64]!r}{own}, which transformers does not"
            f" read: {summary(error)}"
        ) from error


def _read(config: Any, weights: StoredWeights, dtype: torch.dtype) -> Any:
    """The module, filled with exactly the weights of the files."""
    model_class = _model_class(config)
    try:
        with weights as tensors, LOADING, _quietly():
            module, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                # So that they are told of below, by name.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except PenstockError:
        raise
    except Exception as error:
        _log.debug("the weights could not be read", exc_info=error)
        raise InvalidArgument(f"the weights could not be read: {summary(error)}") from error
    _check_complete(module, info)
    return module


@contextmanager
def _quietly() -> Iterator[None]:
    """No bars, reports and advice of transformers: what is wrong is told by an error."""
    bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _model_class(config: Any) -> Any:
    """The class that generates text by this configuration."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InvalidArgument(f"a model of type {config.model_type!r} does not generate text")
    with LOADING:
        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _check_complete(module: Any, info: dict[str, Any]) -> None:
    name = type(module).__name__
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InvalidArgument(
            f"the files lack {len(missing)} tensors of {name}, first {missing[0]!r}"
        )
    wrong = sorted(map(str, info.get("mismatched_keys") or ()))
    if wrong:
        raise InvalidArgument(f"{len(wrong)} tensors do not fit {name}, first {wrong[0][:200]}")
