"""Laws of Python models, three: hooks, what a call may return, and how it may fail."""

import logging
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.runtime.model_folders import (
    context,
    load,
    run,
    write_model,
)

from penstock_runtime.backends.base import (
    Executable,
    Placement,
)
from penstock_runtime.config import (
    ModelConfig,
    ModelParameter,
)
from penstock_runtime.errors import (
    FailureReason,
    Internal,
    ResourceExhausted,
)

ONES = np.ones((2, 3), np.float32)


HOOKS = """
CALLS = []
class Model:
    max_batch_size = 4
    @classmethod
    def load_shared(cls, args):
        CALLS.append(("shared", args.device))
        return np.zeros(4)
    def __init__(self, args: ModelArgs):
        CALLS.append(("init", args.name, args.version, args.parameters["k"], self.shared.size))
    def load(self, args):
        CALLS.append(("load", args.directory.name, args.root.name, args.config.max_batch_size))
    def warmup(self):
        CALLS.append(("warmup",))
    def predict(self, x: FP32[3]) -> INT64[1]:
        return np.full((len(x), 1), id(self.shared))
    def unload(self):
        CALLS.append(("unload",))
        raise RuntimeError("too late to matter")
"""


def test_hooks_are_called_in_order_and_shared_weights_are_loaded_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """load_shared once per device; __init__, load and warmup per instance; unload at the end."""
    source = write_model(tmp_path, HOOKS)
    config = ModelConfig(name="m", parameters={"k": ModelParameter("v")})
    _, loaded = load(replace(source, config=config))
    calls = next(m for n, m in sys.modules.items() if n.endswith(".model") and "_penstock" in n)

    made = [cast(Executable, loaded.executable(Placement(f"m_{i}"))) for i in (0, 1)]
    ids = [m.execute({"x": ONES}, [context()])["OUTPUT0"][0, 0] for m in made]
    for one in made:
        one.close()
    loaded.close()

    per_instance = [("init", "m", 1, "v", 4), ("load", "1", "m", 4), ("warmup",)]
    assert vars(calls)["CALLS"] == [
        ("shared", "cpu"),
        *per_instance,
        *per_instance,
        ("unload",),
        ("unload",),
    ]
    assert ids[0] == ids[1]
    assert "failed in unload" in caplog.text


def test_a_closed_model_keeps_nothing(tmp_path: Path) -> None:
    """Once instances and model are closed, the model's object and its shared weights are gone."""
    text = """
    class Weights: ...
    class Model:
        @classmethod
        def load_shared(cls, args): return Weights()
        def predict(self, x: FP32[3]) -> FP32[3]:
            KEPT.extend([self, self.shared])
            return x
    KEPT = []
    """
    _, loaded = load(write_model(tmp_path, text))
    module = next(m for n, m in sys.modules.items() if n.endswith(".model") and "_penstock" in n)
    made = cast(Executable, loaded.executable(Placement("m_0")))
    made.execute({"x": ONES[0]}, [context()])
    kept = [weakref.ref(one) for one in vars(module).pop("KEPT")]
    del module

    made.close()
    loaded.close()

    assert [one() for one in kept] == [None, None]


@pytest.mark.parametrize("hook", ["__init__(self)", "load(self, args)", "warmup(self)"])
def test_a_failing_hook_fails_the_load_by_its_name(tmp_path: Path, hook: str) -> None:
    """The reason says which hook raised what."""
    text = f"""
    class Model:
        def {hook}: raise OSError("no weights in /data/models/x")
        def predict(self, x: FP32[3]) -> FP32[3]: return x
    """
    _, loaded = load(write_model(tmp_path, text))

    with pytest.raises(Internal) as caught:
        loaded.executable(Placement("m_0"))
    loaded.close()

    name = hook.partition("(")[0]
    assert caught.value.message == f"{name} of model 'm' failed: OSError: no weights in <path>"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("x.astype(np.float64)", ONES.tolist()),
        ("x.astype(np.int64)", ONES.tolist()),
        ("x.tolist()", ONES.tolist()),
        ("x > 0", ONES.tolist()),
        ("{'OUTPUT0': x}", ONES.tolist()),
    ],
)
def test_outputs_of_the_same_kind_become_the_declared_datatype(
    tmp_path: Path, returned: str, expected: Any
) -> None:
    """Whatever widens or narrows within its kind is cast; lists are arrays."""
    text = f"@model(max_batch_size=4)\ndef predict(x: FP32[3]) -> FP32[3]: return {returned}"

    outputs = run(write_model(tmp_path, text), {"x": ONES})

    assert outputs["OUTPUT0"].dtype == np.float32
    assert outputs["OUTPUT0"].tolist() == expected


@pytest.mark.parametrize(
    ("returns", "returned", "expected"),
    [
        ("INT32[3]", "x + 0.5", "output 'OUTPUT0' of model 'm' is float32, expected INT32"),
        ("UINT8[3]", "[[1, 2, 300], [1, 2, 3]]", "is a list (.*), expected UINT8"),
        ("FP32[3]", "'text'", "is a str, expected FP32"),
        ("FP32[3]", "[[1.0], [1.0, 2.0]]", "is a list"),
        ("FP32[3]", "None", "is a NoneType, expected FP32"),
        ("FP32[3]", "x[:1]", r"has shape \[1,3\], expected 2 rows"),
        ("FP32[3]", "{'OUT': x}", "output 'OUT' of model 'm' is unknown, expected one of OUTPUT0"),
        ("FP32[3]", "{}", r"output 'OUTPUT0' of model 'm' is missing \(got nothing\)"),
        ("tuple[FP32[3], FP32[3]]", "(x,)", "returned 1 outputs, expected 2"),
        ("tuple[FP32[3], FP32[3]]", "x", "returned a ndarray, expected 2 outputs"),
        ("BYTES[3]", "[[1, 2, 3]] * 2", "holds a int, not text"),
        ("BYTES[3]", "x", "holds a float, not text"),
    ],
)
def test_a_wrong_output_is_named_with_what_came_and_what_was_declared(
    tmp_path: Path, returns: str, returned: str, expected: str
) -> None:
    """The error is the model's, of the backend."""
    text = f"@model(max_batch_size=4)\ndef predict(x: FP32[3]) -> {returns}: return {returned}"

    with pytest.raises(Internal, match=expected) as caught:
        run(write_model(tmp_path, text), {"x": ONES})

    assert caught.value.failure is FailureReason.BACKEND
    assert caught.value.scheduled


def test_text_comes_as_bytes_and_goes_as_text_or_bytes(tmp_path: Path) -> None:
    """BYTES outputs are arrays of bytes, whatever text they were made of."""
    text = """
    def predict(x: BYTES[-1]) -> tuple[BYTES[-1], BYTES[-1], BYTES[1], BYTES[-1]]:
        words = [w.decode() for w in x]
        return [w.upper() for w in words], np.array(words), "one", x
    """

    outputs = run(write_model(tmp_path, text), {"x": np.array([b"a", b"\xc3\xa9"], object)})

    assert outputs["OUTPUT0"].tolist() == [b"A", "É".encode()]
    assert outputs["OUTPUT1"].tolist() == [b"a", "é".encode()]
    assert outputs["OUTPUT2"].tolist() == [b"one"]
    assert outputs["OUTPUT3"].dtype == object


def test_bf16_is_its_halves_or_rounded_floats(tmp_path: Path) -> None:
    """uint16 passes as halves, floats are rounded to them."""
    text = """
    def predict(x: BF16[2]) -> tuple[BF16[2], BF16[2]]:
        return x, np.array([1.0, -2.0])
    """
    halves = np.array([0x3F80, 0xC000], np.uint16)

    outputs = run(write_model(tmp_path, text), {"x": halves})

    assert outputs["OUTPUT0"] is halves
    assert outputs["OUTPUT1"].tolist() == halves.tolist()


def test_only_outputs_that_nobody_asked_for_may_be_missing(tmp_path: Path) -> None:
    """A model may skip what no request of the batch wants."""
    text = """
    class Out(TypedDict):
        a: FP32[3]
        b: FP32[3]
    def predict(x: FP32[3], ctx: Context) -> Out:
        return {name: x for name in ctx.requested_outputs}
    """
    source = write_model(tmp_path, text)

    outputs = run(source, {"x": ONES[0]}, context("b"))

    assert list(outputs) == ["b"]
    with pytest.raises(Internal, match="output 'a' of model 'm' is missing"):
        run(source, {"x": ONES[0]}, context())


def test_contexts_reach_the_model_one_or_many(tmp_path: Path) -> None:
    """Parameters go in, response parameters come out."""
    text = """
    @model(max_batch_size=4)
    def predict(x: FP32[3], requests: list[Context]) -> FP32[1]:
        for request in requests:
            request.response_parameters["seen"] = request.parameters["k"]
        return np.array([[r.parameters["k"]] for r in requests], np.float32)
    """
    contexts = [context(k=1), context(k=2)]

    outputs = run(write_model(tmp_path, text), {"x": ONES}, *contexts)

    assert outputs["OUTPUT0"].tolist() == [[1.0], [2.0]]
    assert [c.response_parameters["seen"] for c in contexts] == [1, 2]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("ValueError('x must be positive\\nsecond line')", "x must be positive"),
        ("ValueError()", "ValueError"),
        ("KeyError('k')", "KeyError: 'k'"),
        ("OSError('cannot read /srv/models/m/1/w.bin now')", "cannot read <path> now"),
        ("RuntimeError('a' * 600)", "a" * 509 + "..."),
        ("SystemExit('bye')", "bye"),
    ],
)
def test_a_models_exception_is_told_in_its_first_line_without_paths(
    tmp_path: Path, raised: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the message, the log the traceback."""
    source = write_model(tmp_path, f"def predict(x: FP32[3]) -> FP32[3]: raise {raised}")

    with pytest.raises(Internal) as caught, caplog.at_level(logging.ERROR, "penstock.model"):
        run(source, {"x": ONES[0]})

    assert caught.value.message == expected
    assert caught.value.failure is FailureReason.BACKEND
    assert caught.value.scheduled
    assert "Traceback" in caplog.text


def test_an_error_of_penstock_passes_as_the_model_raised_it(tmp_path: Path) -> None:
    """A model may choose its status."""
    text = """
    from penstock_runtime.errors import ResourceExhausted
    def predict(x: FP32[3]) -> FP32[3]: raise ResourceExhausted("out of tokens", reason="TOKENS")
    """

    with pytest.raises(ResourceExhausted, match="out of tokens") as caught:
        run(write_model(tmp_path, text), {"x": ONES[0]})

    assert caught.value.reason == "TOKENS"
