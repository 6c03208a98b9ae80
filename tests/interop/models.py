"""The models that every client meets, as a repository on the disk."""

from pathlib import Path

from penstock_protos.inference import ModelInferRequest

_IMPORTS = """import time

import numpy as np
from penstock import BYTES, INT32, Context, model
from penstock_runtime.errors import Unavailable

"""

ECHO = """
@model
def echo(IN: INT32[-1]) -> INT32[-1].named("OUT"):
    return IN
"""

SLOW = """
@model
def slow(IN: INT32[1], context: Context) -> INT32[1].named("OUT"):
    for _ in range(int(IN[0])):
        if context.cancelled:
            break
        time.sleep(0.001)
    return IN
"""

DECOUPLED = "repeat"
REPEAT = """
@model
def repeat(IN: INT32[-1], DELAY: INT32[1], context: Context):
    for value in IN:
        if context.cancelled:
            return
        time.sleep(int(DELAY[0]) / 1000)
        yield {"OUT": [value]}
"""
REPEAT_CONFIG = """
model_transaction_policy { decoupled: True }
input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
        { name: "DELAY" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""

BUSY_TEXT = 'überlastet, 過負荷 😀: 100 % \\ "busy"'
BUSY = f"""
@model
def busy(IN: INT32[-1]) -> INT32[-1].named("OUT"):
    raise Unavailable({BUSY_TEXT!r}, reason="BUSY", retry_after_ns=25_000_000)
"""

FLAKY = """
SEEN = {}

@model
def flaky(IN: INT32[-1], context: Context) -> INT32[-1].named("OUT"):
    SEEN[context.id] = SEEN.get(context.id, 0) + 1
    if SEEN[context.id] % 3:
        raise Unavailable("not yet", retry_after_ns=1_000_000)
    return IN
"""

HEADERS = """
@model
def headers(IN: BYTES[-1], context: Context) -> BYTES[-1].named("OUT"):
    return np.array([context.headers.get(n.decode(), "-").encode() for n in IN], object)
"""

MODELS = {"echo": ECHO, "slow": SLOW, "repeat": REPEAT, "busy": BUSY, "flaky": FLAKY}


def build(root: Path) -> Path:
    """Write the repository; returns its folder."""
    for name, code in {**MODELS, "headers": HEADERS}.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(_IMPORTS + code)
    (root / "repeat" / "config.pbtxt").write_text('backend: "python"\n' + REPEAT_CONFIG)
    return root


def request(model: str, values: bytes, id_: str = "", datatype: str = "INT32") -> ModelInferRequest:
    """A request with one input IN of one dimension, whose little-endian bytes these are."""
    made = ModelInferRequest(model_name=model, id=id_)
    count = len(values) // 4
    made.inputs.add(name="IN", datatype=datatype, shape=[count])
    made.raw_input_contents.append(values)
    return made


def numbers(*values: int) -> bytes:
    """INT32 values as raw contents."""
    return b"".join(value.to_bytes(4, "little", signed=True) for value in values)


def repeat_request(id_: str, values: bytes, delay_ms: int = 0) -> ModelInferRequest:
    """A request for one response per value, each after a delay."""
    made = request("repeat", values, id_)
    made.inputs.add(name="DELAY", datatype="INT32", shape=[1])
    made.raw_input_contents.append(numbers(delay_ms))
    return made


def names_request(*names: str) -> ModelInferRequest:
    """A request for the values of these headers, as the model saw them."""
    raw = b"".join(len(name).to_bytes(4, "little") + name.encode() for name in names)
    made = ModelInferRequest(model_name="headers", id="headers")
    made.inputs.add(name="IN", datatype="BYTES", shape=[len(names)])
    made.raw_input_contents.append(raw)
    return made
