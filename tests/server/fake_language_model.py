"""Models that look like a language model's engine from outside: the same tensors, and texts that
can be told beforehand. The answer to a prompt is its words in upper case, one a response.
"""

from pathlib import Path

HEAD = '''\
import json
import time
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from penstock import BOOL, BYTES, INT32, UINT32, UINT64, Context, model


class Said(TypedDict):
    text_output: BYTES[-1]
    finish_reason: BYTES[-1]
    stop_reason: BYTES[-1]
    index: INT32[-1]
    num_input_tokens: UINT32[1]
    num_output_tokens: UINT32[-1]
    cached_tokens: UINT32[1]
    ttft_ns: UINT64[1]
    queue_ns: UINT64[1]
    itl_mean_ns: UINT64[1]
    logprobs: BYTES[-1]


def prompt_of(text, messages):
    """A conversation is answered by its number of messages and the words of the last one."""
    if messages is None:
        return text[0].decode()
    said = json.loads(messages[0])
    system = [each["content"] for each in said if each["role"] == "system"]
    return " ".join([str(len(said)), *system, said[-1]["content"]])


def said(texts, reasons, indices, counts, prompt, stop="", logprobs=""):
    return {
        "text_output": np.array([each.encode() for each in texts], object),
        "finish_reason": np.array([each.encode() for each in reasons], object),
        "stop_reason": np.array([stop.encode()] * len(texts), object),
        "index": np.array(indices, np.int32),
        "num_input_tokens": np.array([len(prompt.split())], np.uint32),
        "num_output_tokens": np.array(counts, np.uint32),
        "cached_tokens": np.array([2], np.uint32),
        "ttft_ns": np.array([1_500_000], np.uint64),
        "queue_ns": np.array([250_000], np.uint64),
        "itl_mean_ns": np.array([2_000_000], np.uint64),
        "logprobs": np.array([logprobs.encode()] * len(texts), object),
    }


def logprobs_of(word):
    said = {"7": {"logprob": -0.1, "rank": 1, "decoded_token": word}}
    return json.dumps([said | {"9": {"logprob": -2.5, "rank": 2, "decoded_token": "x"}}])


def words_of(prompt, asked):
    if "choice" in asked:
        return [asked["choice"][0]]
    if "echo" in prompt:
        return [json.dumps(asked, sort_keys=True)]
    return [word.upper() + " " for word in prompt.split()]
'''
STREAMED = """

@model
def talker(
    context: Context,
    text_input: BYTES[-1] | None = None,
    messages: BYTES[1] | None = None,
    stream: BOOL[1] | None = None,
    sampling_parameters: BYTES[1] | None = None,
    return_logprobs: BOOL[1] | None = None,
    return_finish_reason: BOOL[1] | None = None,
) -> Iterator[Said]:
    asked = json.loads(sampling_parameters[0]) if sampling_parameters is not None else {}
    prompt = prompt_of(text_input, messages)
    if asked.get("temperature", 1) < 0:
        raise ValueError("temperature is -1, expected a number from 0")
    words = words_of(prompt, asked)
    length = min(len(words), asked.get("max_tokens") or len(words))
    reason = "length" if length < len(words) else "stop"
    # Choices come in turns, as they do where they are computed together.
    for count in range(1, length + 1):
        for index in range(asked.get("n", 1)):
            if context.cancelled:
                return
            word = words[count - 1]
            told = logprobs_of(word) if return_logprobs is not None else ""
            yield said([word], [reason if count == length else ""], [index], [count], prompt,
                       logprobs=told)
            if "slowly" in prompt:
                time.sleep(0.05)
"""
WHOLE = """

@model
def whole(
    text_input: BYTES[-1] | None = None,
    sampling_parameters: BYTES[1] | None = None,
) -> Said:
    asked = json.loads(sampling_parameters[0]) if sampling_parameters is not None else {}
    prompt = prompt_of(text_input, None)
    words, n = words_of(prompt, asked), asked.get("n", 1)
    return said(["".join(words)] * n, ["stop"] * n, list(range(n)), [len(words)] * n, prompt, "END")
"""


def write_talker(root: Path, name: str = "talker") -> None:
    """A model that streams, into a repository."""
    _write(root, name, HEAD + STREAMED.replace("def talker", f"def {name}"))


def write_whole(root: Path, name: str = "whole") -> None:
    """A model that answers at once, and takes no conversations."""
    _write(root, name, HEAD + WHOLE.replace("def whole", f"def {name}"))


def _write(root: Path, name: str, code: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(code)
