"""A repository of small models and of ensembles made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

HEADER = """import time
from collections.abc import Iterator
import numpy as np
from penstock import BYTES, FP32, Context, model
"""
CODES = {
    "double": """
@model(max_batch_size=8)
def double(X: FP32[-1]) -> FP32[-1].named("Y"):
    return X * 2
""",
    "add": """
@model(max_batch_size=8)
def add(A: FP32[-1], B: FP32[-1] | None = None) -> FP32[-1].named("S"):
    return A if B is None else A + B
""",
    "plain_add": """
@model
def plain_add(A: FP32[-1], B: FP32[-1]) -> FP32[-1].named("S"):
    return A + B
""",
    "each": """
@model
def each(X: FP32[-1]) -> Iterator[FP32[1].named("Y")]:
    for value in X:
        yield np.array([value], np.float32)
""",
    "repeat": """
@model
def repeat(X: FP32[1]) -> Iterator[FP32[1].named("Y")]:
    for number in range(int(X[0])):
        yield X * 10 + number
""",
    "picky": """
@model(max_batch_size=8)
def picky(X: FP32[-1]) -> FP32[-1].named("Y"):
    if (X < 0).any():
        raise ValueError("negative")
    return X
""",
    "patient": """
@model
def patient(X: FP32[-1], context: Context) -> FP32[-1].named("Y"):
    until = time.monotonic() + X[0]
    while time.monotonic() < until and not context.cancelled:
        time.sleep(0.002)
    return X
""",
    "words": """
@model(labels={"SCORES": "labels.txt"})
def words(TEXT: BYTES[-1]) -> tuple[FP32[3].named("SCORES"), BYTES[-1].named("UPPER")]:
    size = len(TEXT[0])
    return np.array([size, 5, 1], np.float32), np.array([t.upper() for t in TEXT], object)
""",
    "counted": """
CALLS = []

@model
def counted(X: FP32[-1]) -> FP32[-1].named("Y"):
    CALLS.append(1)
    return X + len(CALLS)
""",
}
CONFIGS = {
    "double": "dynamic_batching { max_queue_delay_microseconds: 500 preserve_ordering: true }\n"
    "instance_group { count: 2 }\n",
    "counted": "response_cache { enable: true }\n",
}


def tensor(name: str, dims: str = "-1", kind: str = "FP32", *, optional: bool = False) -> str:
    """An input or an output."""
    also = " optional: true" if optional else ""
    return f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ]{also} }}'


def step(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """A step: the model's own names to the ensemble's."""
    maps = [f'input_map {{ key: "{k}" value: "{v}" }}' for k, v in inputs.items()]
    maps += [f'output_map {{ key: "{k}" value: "{v}" }}' for k, v in outputs.items()]
    return f'  step {{ model_name: "{name}" model_version: -1 {" ".join(maps)} }}\n'


def ensemble(
    inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[str], more: str = ""
) -> str:
    """The configuration of an ensemble."""
    lines = [f"input {one}\n" for one in inputs] + [f"output {one}\n" for one in outputs]
    return (
        f'platform: "ensemble"\n{"".join(lines)}{more}ensemble_scheduling {{\n{"".join(steps)}}}\n'
    )


X_TO_Y = {"X": "IN"}, {"Y": "OUT"}
ENSEMBLES = {
    # in -> double -> add with in
    "triple": ensemble(
        [tensor("IN")],
        [tensor("OUT"), tensor("TWICE")],
        [
            step("double", {"X": "IN"}, {"Y": "TWICE"}),
            step("add", {"A": "IN", "B": "TWICE"}, {"S": "OUT"}),
        ],
        "max_batch_size: 8\n",
    ),
    "nine_times": ensemble(
        [tensor("IN")],
        [tensor("OUT")],
        [
            step("triple", {"IN": "IN"}, {"OUT": "mid"}),
            step("triple", {"IN": "mid"}, {"OUT": "OUT"}),
        ],
        "max_batch_size: 8\n",
    ),
    "optional": ensemble(
        [tensor("IN"), tensor("MORE", optional=True)],
        [tensor("OUT")],
        [step("add", {"A": "IN", "B": "MORE"}, {"S": "OUT"})],
        "max_batch_size: 8\n",
    ),
    # every value of in, repeated value times, and with `BASE` added
    "streamed": ensemble(
        [tensor("IN"), tensor("BASE", "1")],
        [tensor("OUT", "1")],
        [
            step("each", {"X": "IN"}, {"Y": "one"}),
            step("repeat", {"X": "one"}, {"Y": "many"}),
            step("plain_add", {"A": "many", "B": "BASE"}, {"S": "OUT"}),
            "  max_inflight_requests: 2\n",
        ],
    ),
    "careful": ensemble(
        [tensor("IN")],
        [tensor("OUT")],
        [step("picky", *X_TO_Y)],
        "max_batch_size: 8\n",
    ),
    "slow": ensemble(
        [tensor("IN")],
        [tensor("OUT"), tensor("AFTER")],
        [step("patient", *X_TO_Y), step("counted", {"X": "OUT"}, {"Y": "AFTER"})],
    ),
    "spoken": ensemble(
        [tensor("IN", kind="STRING")],
        [tensor("SCORES", "3"), tensor("OUT", kind="STRING")],
        [
            step("words", {"TEXT": "IN"}, {"UPPER": "upper"}),
            step("words", {"TEXT": "upper"}, {"SCORES": "SCORES", "UPPER": "OUT"}),
        ],
    ),
    "kept": ensemble(
        [tensor("IN")],
        [tensor("OUT")],
        [step("counted", *X_TO_Y)],
        "response_cache { enable: true }\n",
    ),
    "broken": ensemble([tensor("IN")], [tensor("OUT")], [step("ghost", *X_TO_Y)]),
}


def write_code(root: Path, name: str, code: str) -> None:
    """A model."""
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(HEADER + code)
    if name in CONFIGS:
        (root / name / "config.pbtxt").write_text(CONFIGS[name])


def write_ensemble(root: Path, name: str, config: str) -> None:
    """An ensemble, with the empty folder of its version."""
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(config)


def write_repository(root: Path) -> None:
    """All of them."""
    for name, code in CODES.items():
        write_code(root, name, code)
    for name, config in ENSEMBLES.items():
        write_ensemble(root, name, config)
    (root / "words" / "labels.txt").write_text("long\nfive\none\n")
