"""Reads a LoRA adapter from a folder of PEFT: an adapter_config.json and safetensors, never a
pickle. It knows nothing of the model that the adapter is for.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open

from penstock_runtime.backends.safetensors_file import StoredTensor, read_header
from penstock_runtime.errors import InvalidArgument

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_MOST_CONFIG = 1 << 20
_PREFIX = "base_model.model."
_DTYPES = ("F32", "F16", "BF16")
# What changes the model in a way that two low-rank factors do not tell.
_REFUSED = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "use_bdlora",
    "arrow_config",
    "alora_invocation_tokens",
)
# They start from a changed base, which is not in the folder.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True, slots=True)
class Factors:
    """The change of one linear layer: `b @ a`, the scaling in `b`. a: [rank, inputs]; b: [outputs,
    rank].
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter: its factors by the name of the layer in the model."""

    name: str
    rank: int
    layers: Mapping[str, Factors]

    @property
    def nbytes(self) -> int:
        """What its factors take."""
        return sum(one.a.nbytes + one.b.nbytes for one in self.layers.values())


def adapter_folder(root: Path, path: str, name: str) -> Path:
    """The folder of an adapter, inside of the model's. InvalidArgument for any other."""
    home = root.resolve()
    try:
        folder = (home / path).resolve()
        inside = folder.is_relative_to(home) and folder.is_dir()
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise InvalidArgument(
            f"adapter '{name}': {path[:128]!r} is no folder inside of the model's"
        )
    return folder


def read_adapter(
    root: Path, path: str, name: str, max_rank: int, dtype: torch.dtype
) -> AdapterFile:
    """Read one, with factors of this dtype. Safe from any thread. InvalidArgument names what is
    wrong or not offered.
    """
    folder = adapter_folder(root, path, name)
    home = root.resolve()
    config = _config(_file(home, folder, CONFIG, name), name)
    rank, scaling = _scaling(config, max_rank, name)
    layers = _layers(_file(home, folder, WEIGHTS, name), name, rank, scaling, dtype)
    return AdapterFile(name, rank, MappingProxyType(layers))


def _file(home: Path, folder: Path, filename: str, name: str) -> Path:
    path = folder / filename
    if not path.is_file():
        pickled = filename == WEIGHTS and (folder / "adapter_model.bin").exists()
        more = "; adapter_model.bin is a pickle, which is not read" if pickled else ""
        raise InvalidArgument(f"adapter '{name}' has no {filename}{more}")
    if not path.resolve().is_relative_to(home):
        raise InvalidArgument(f"adapter '{name}': {filename} leads out of the model's folder")
    return path


# -- the configuration -----------------------------------------------------------------------------


def _config(path: Path, name: str) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(_MOST_CONFIG + 1)
    try:
        config = json.loads(text) if len(text) <= _MOST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InvalidArgument(
            f"adapter '{name}': {CONFIG} is no JSON object of up to {_MOST_CONFIG} bytes"
        )
    _check_offered(config, name)
    return config


def _check_offered(config: dict[str, Any], name: str) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise InvalidArgument(f"adapter '{name}': peft_type is {str(kind)[:32]!r}, expected 'LORA'")
    for field in _REFUSED:
        if config.get(field):
            raise InvalidArgument(f"adapter '{name}': {field} is set, which is not offered")
    if config.get("bias", "none") != "none":
        bias = str(config["bias"])[:32]
        raise InvalidArgument(f"adapter '{name}': bias is {bias!r}, expected 'none'")
    begun = str(config.get("init_lora_weights", "")).lower()
    if begun.startswith(_CHANGED_BASES):
        raise InvalidArgument(
            f"adapter '{name}': init_lora_weights is {begun[:32]!r}, which changes the base"
        )


def _scaling(config: dict[str, Any], max_rank: int, name: str) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= max_rank:
        shown = str(rank)[:32]
        raise InvalidArgument(
            f"adapter '{name}': r is {shown}, expected 1 to max_lora_rank, {max_rank}"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InvalidArgument(f"adapter '{name}': lora_alpha is no number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


# -- the factors -----------------------------------------------------------------------------------


def _layers(
    path: Path, name: str, rank: int, scaling: float, dtype: torch.dtype
) -> dict[str, Factors]:
    header = read_header(path)
    pairs = _pairs(header, name, rank)
    layers = {}
    with safe_open(path, framework="pt") as file:
        for layer, (a, b) in pairs.items():
            first = file.get_tensor(a).to(dtype, copy=True)
            second = (file.get_tensor(b).float() * scaling).to(dtype)
            layers[layer] = Factors(first, second)
    return layers


def _pairs(header: dict[str, StoredTensor], name: str, rank: int) -> dict[str, tuple[str, str]]:
    """The names of the two factors of each layer, which must be whole and of this rank."""
    found: dict[str, dict[str, str]] = {}
    for key, stored in header.items():
        layer, which = _split(key, name)
        at = 0 if which == "A" else 1
        if stored.dtype not in _DTYPES or len(stored.shape) != 2 or stored.shape[at] != rank:
            raise InvalidArgument(
                f"adapter '{name}': {key[:128]} is {stored.dtype} {list(stored.shape)}, expected a"
                f" float of rank {rank}"
            )
        found.setdefault(layer, {})[which] = key
    half = next((layer for layer, both in found.items() if len(both) < 2), None)
    if half is not None or not found:
        what = f"one factor of {half[:128]}" if half else "no factors"
        raise InvalidArgument(f"adapter '{name}' has {what}, expected pairs of lora_A and lora_B")
    return {layer: (both["A"], both["B"]) for layer, both in found.items()}


def _split(key: str, name: str) -> tuple[str, str]:
    path = key.removeprefix(_PREFIX)
    for which in "AB":
        for ending in (f".lora_{which}.weight", f".lora_{which}.default.weight"):
            if path.endswith(ending):
                return path.removesuffix(ending), which
    raise InvalidArgument(f"adapter '{name}' has {key[:128]}, expected lora_A and lora_B alone")
