"""The tensors of a generative model: those of Triton's vLLM backend, those of its TensorRT-LLM
ensemble, and our own. All inputs are optional; what is not asked for is not among the outputs.
"""

from penstock_runtime.config import ModelInput, ModelOutput
from penstock_runtime.datatype import DataType

TEXT, IDS, MESSAGES = "text_input", "input_ids", "messages"
STREAM, SAMPLING, EXCLUDE = "stream", "sampling_parameters", "exclude_input_in_output"

# What each flag of the vLLM backend and of the TensorRT-LLM ensemble asks for.
FLAGS = {
    "return_finish_reason": ("finish_reason", "stop_reason"),
    "return_cumulative_logprob": ("cumulative_logprob",),
    "return_logprobs": ("logprobs",),
    "return_num_input_tokens": ("num_input_tokens",),
    "return_num_output_tokens": ("num_output_tokens",),
    "return_log_probs": ("cumulative_logprob", "logprobs"),
}

# Inputs that say what `sampling_parameters` says, by their names there.
SCALARS = {
    "max_tokens": ("max_tokens", DataType.INT32),
    "min_tokens": ("min_tokens", DataType.INT32),
    "top_k": ("top_k", DataType.INT32),
    "top_p": ("top_p", DataType.FP32),
    "min_p": ("min_p", DataType.FP32),
    "temperature": ("temperature", DataType.FP32),
    "repetition_penalty": ("repetition_penalty", DataType.FP32),
    "presence_penalty": ("presence_penalty", DataType.FP32),
    "frequency_penalty": ("frequency_penalty", DataType.FP32),
    "seed": ("seed", DataType.UINT64),
    "num_return_sequences": ("n", DataType.INT32),
}
LISTS = {"stop_words": "stop", "bad_words": "bad_words"}
GUIDE_KIND, GUIDE = "guided_decoding_guide_type", "guided_decoding_guide"
# Read for the sake of clients that always send them; only the value that changes nothing is taken.
NEUTRAL = {"beam_width": (DataType.INT32, 1.0), "length_penalty": (DataType.FP32, 1.0)}

PROMPT_IDS, PROMPT_TEXT, N_PROMPT = "prompt_ids", "prompt_text", "num_input_tokens"
OF_PROMPT = frozenset({PROMPT_IDS, PROMPT_TEXT, N_PROMPT})
"""Outputs that say something of the prompt alone: where nothing else is asked for, nothing is
generated.
"""

_OUTPUTS = (
    ("text_output", DataType.BYTES, -1),
    ("finish_reason", DataType.BYTES, -1),
    ("stop_reason", DataType.BYTES, -1),
    ("index", DataType.INT32, -1),
    ("output_ids", DataType.INT64, -1),
    ("cumulative_logprob", DataType.FP32, -1),
    ("logprobs", DataType.BYTES, -1),
    ("prompt_logprobs", DataType.BYTES, -1),
    (PROMPT_IDS, DataType.INT64, -1),
    (PROMPT_TEXT, DataType.BYTES, -1),
    (N_PROMPT, DataType.UINT32, -1),
    ("num_output_tokens", DataType.UINT32, -1),
    ("cached_tokens", DataType.UINT32, -1),
    ("ttft_ns", DataType.UINT64, 1),
    ("queue_ns", DataType.UINT64, 1),
    ("itl_mean_ns", DataType.UINT64, 1),
    ("compute_ns", DataType.UINT64, 1),
    ("cost", DataType.FP64, 1),
)


def _input(name: str, datatype: DataType, dim: int = 1) -> ModelInput:
    return ModelInput(name, datatype, (dim,), optional=True)


def declared_inputs() -> tuple[ModelInput, ...]:
    """Every input that a generative model takes."""
    return (
        _input(TEXT, DataType.BYTES, -1),
        _input(IDS, DataType.INT64, -1),
        _input(MESSAGES, DataType.BYTES),
        _input(STREAM, DataType.BOOL),
        _input(SAMPLING, DataType.BYTES),
        _input(EXCLUDE, DataType.BOOL),
        *(_input(name, DataType.BOOL) for name in FLAGS),
        *(_input(name, datatype) for name, (_, datatype) in SCALARS.items()),
        *(_input(name, DataType.BYTES, -1) for name in LISTS),
        _input(GUIDE_KIND, DataType.BYTES),
        _input(GUIDE, DataType.BYTES),
        *(_input(name, datatype) for name, (datatype, _) in NEUTRAL.items()),
    )


def declared_outputs() -> tuple[ModelOutput, ...]:
    """Every output that a generative model can give."""
    return tuple(ModelOutput(name, datatype, (dim,)) for name, datatype, dim in _OUTPUTS)
