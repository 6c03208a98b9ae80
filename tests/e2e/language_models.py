"""A language model in a repository, what clients of Triton ask it, and what its metrics say."""

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.e2e.running import Running

TRAINED = Path(__file__).parents[1] / "llm" / "tiny_llm"
PARAMETERS = {"dtype": "float32", "threads": "1", "cpu_kernels": "off"}
PROMPT = "def test_"


def write_language_model(
    root: Path, name: str = "tiny", more: str = "", **parameters: object
) -> Path:
    """The trained model in the repository `root`, with these parameters of its engine."""
    folder = root / name
    shutil.copytree(TRAINED, folder / "1")
    said = {**PARAMETERS, **parameters}
    text = 'backend: "llm"\n' + more
    for key, value in said.items():
        text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    (folder / "config.pbtxt").write_text(text)
    return folder


def tensors(given: dict[str, Any], module: Any = triton) -> list[Any]:
    """Inputs of a request, by name: text, numbers, truths, or arrays with their datatypes."""
    return [_tensor(name, value, module) for name, value in given.items()]


def _tensor(name: str, value: Any, module: Any) -> Any:
    if isinstance(value, dict):
        value = json.dumps(value)
    array, datatype = _array(value)
    tensor = module.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _array(value: Any) -> tuple[Any, str]:
    if isinstance(value, np.ndarray):
        kinds = {"b": "BOOL", "i": f"INT{value.itemsize * 8}", "u": f"UINT{value.itemsize * 8}"}
        return value, {**kinds, "f": "FP32", "O": "BYTES"}[value.dtype.kind]
    if isinstance(value, bool):
        return np.array([value]), "BOOL"
    texts = [value] if isinstance(value, str) else value
    return np.array([text.encode() for text in texts], dtype=object), "BYTES"


def ask(prompt: str | list[str] = PROMPT, **sampling: Any) -> list[Any]:
    """A request with a text and sampling parameters."""
    return tensors({"text_input": prompt, "sampling_parameters": sampling})


def outputs(*names: str, module: Any = triton) -> list[Any]:
    """These outputs, asked for."""
    return [module.InferRequestedOutput(name) for name in names]


def text_of(result: Any) -> str:
    """The text of a result that has one."""
    found: str = result.as_numpy("text_output").reshape(-1)[0].decode()
    return found


def metrics(running: Running, name: str = "tiny") -> dict[str, float]:
    """The samples of an engine, by their names without prefix; buckets are left out."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.metrics_port}/metrics") as answer:
        body = answer.read().decode()
    found: dict[str, float] = {}
    for line in body.splitlines():
        match = re.match(r"penstock_llm_(\w+)\{(.*)\} (\S+)$", line)
        if match and f'model_name="{name}"' in match[2] and not match[1].endswith("_bucket"):
            reason = re.search(r'finished_reason="(\w+)"', match[2])
            found[match[1] + (f":{reason[1]}" if reason else "")] = float(match[3])
    return found


def is_idle(running: Running, name: str = "tiny") -> bool:
    """Whether the engine has nothing in hand and all its blocks."""
    found = metrics(running, name)
    busy = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return not any(found[key] for key in busy)


def wait_until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def joined(results: Iterable[Any]) -> str:
    """The text of a stream."""
    return "".join(text_of(result) for result in results)
