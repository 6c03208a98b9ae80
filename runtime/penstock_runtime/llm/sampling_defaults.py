"""How a model wants to be sampled where a request does not say: what its generation_config.json
has, as vLLM reads it.
"""

import logging
from pathlib import Path

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sampling_reader import read_sampling
from penstock_runtime.llm.tokenizer_files import read_json

_log = logging.getLogger("penstock.llm")

FILE = "generation_config.json"
NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
WAYS = ("auto", "none")


def sampling_defaults(model: str, folder: Path, options: EngineOptions) -> SamplingParams:
    """What requests to the model begin with: the options', the file's (unless `generation_config`
    is none), and else what each parameter is anyway. InvalidArgument names a value that is no good.
    """
    if options.generation_config not in WAYS:
        raise InvalidArgument(
            f"model '{model}': generation_config is {options.generation_config[:64]!r}, expected"
            f" one of {', '.join(WAYS)}"
        )
    most = options.default_max_tokens
    base = SamplingParams(max_tokens=most) if most else SamplingParams()
    document = read_json(folder / FILE) if options.generation_config == "auto" else {}
    found = {name: document[name] for name in NAMES if document.get(name) is not None}
    try:
        params = read_sampling(found, base)
    except InvalidArgument as error:
        raise InvalidArgument(f"model '{model}': {FILE}: {error.message}") from error
    if found:
        said = ", ".join(f"{name} {value}" for name, value in found.items())
        _log.info("model '%s': requests that do not say are sampled with %s", model, said)
    return params
