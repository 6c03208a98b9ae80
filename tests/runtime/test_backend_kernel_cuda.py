"""Laws of a `model.cu`: what the configuration says is what is launched, a CPU answers by the
reference, a source that does not compile is refused by line, and nothing of a load is left behind.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import needs_compiler
from tests.runtime.kernel_folders import (
    LAUNCH,
    SCALE,
    X,
    Y,
    answer,
    both_ways,
    cuda_source,
    emulate,
    floats,
)
from tests.runtime.model_folders import load, start

from penstock_kernels import nvrtc
from penstock_kernels.declare import Kernel
from penstock_runtime.backends.kernel.cuda import CudaStep
from penstock_runtime.backends.kernel.source import refusal
from penstock_runtime.config import ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PenstockError,
    Unsupported,
)

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")

ROWS = """\
template <typename T, int BLOCK>
__global__ void row_sums(const T* x, T* sums, T* twice, int width) {
  __shared__ T part[BLOCK];
  T sum = 0;
  for (int i = threadIdx.x; i < width; i += BLOCK) sum += x[blockIdx.x * (long long)width + i];
  part[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 1; i < BLOCK; ++i) sum += part[i];
  sums[blockIdx.x] = sum;
  twice[2 * blockIdx.x] = twice[2 * blockIdx.x + 1] = sum;
}
"""
ROW_SUMS = {
    "parameters": {
        "function": "row_sums<float, 32>",
        "grid": "X.rows",
        "block": "32",
        "arguments": "X, S, T, int32(X.shape[1])",
        "shape.S": "X.rows, 1",
    },
    "output": (ModelOutput("S", DataType.FP32, (-1,)), ModelOutput("T", DataType.FP32, (2,))),
}
ROW_REFERENCE = """\
import numpy as np

def reference(X):
    sums = X.sum(axis=1, keepdims=True)
    return {"S": sums, "T": np.repeat(sums, 2, axis=1)}
"""


@needs_compiler
def test_the_source_is_launched_as_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed on the CPU it gives what the reference gives, for a width that is no block's."""
    x = floats(3, 401)

    reference, emulated = both_ways(monkeypatch, cuda_source(tmp_path), X=x)

    np.testing.assert_array_equal(reference["Y"], x * np.float32(2.5))
    np.testing.assert_array_equal(emulated["Y"], reference["Y"])


@needs_compiler
def test_templates_shared_memory_and_several_outputs_are_launched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output has the shape that its parameter says, or the dims of the configuration."""
    x = floats(5, 77)

    reference, emulated = both_ways(
        monkeypatch, cuda_source(tmp_path, ROWS, ROW_REFERENCE, **ROW_SUMS), X=x
    )

    assert emulated["S"].shape == (5, 1)
    assert emulated["T"].shape == (5, 2)
    for name, array in reference.items():
        np.testing.assert_allclose(emulated[name], array, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_what_a_kernel_leaves_of_its_outputs_is_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of who was there before is shown to nobody."""
    half: dict[str, Any] = {"parameters": {"arguments": "X, Y, int32(X.size // 2), float32(1)"}}
    emulate(monkeypatch)

    found = answer(cuda_source(tmp_path, reference="", **half), X=floats(2, 8))["Y"]

    np.testing.assert_array_equal(found, np.stack([floats(2, 8)[0], np.zeros(8)]))


def test_on_a_cpu_a_model_without_reference_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """Before a request could meet it."""
    with pytest.raises(FailedPrecondition, match=r"needs a CUDA device.*reference\.py would stand"):
        start(cuda_source(tmp_path, reference=""))


@needs_nvrtc
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SCALE.replace("x[i] * by", "z[i]"), r'does not compile: line 5: identifier "z" is undef'),
        (SCALE.replace("void scale", "void scole"), "has no __global__ function scale"),
        (SCALE.replace("float by) {", "float by) {{"), "compile: at its end: expected a"),
        ('#include "/etc/hostname"\n' + SCALE, "does not compile: "),
        ('#include "mine.cuh"\n' + SCALE, r'includes "mine\.cuh", expected "common\.cuh"'),
        (SCALE + "void f() {\n a;\n b;\n c;\n d;\n}\n", r"line 8: .*line 9: .*; and 1 more"),
        (SCALE.replace("int n", 'int n) {\n#error "x"\n'), "line 4: #error directive"),
        (SCALE.replace("void scale", "void scole") + 'extern "C" { void scale(); }', "scale"),
        ("", "has no __global__ function scale"),
    ],
)
def test_a_source_that_does_not_compile_is_refused_by_line(
    text: str, said: str, tmp_path: Path
) -> None:
    """Without a GPU as well, with a reference as well; no path is told."""
    source = cuda_source(tmp_path, text)

    with pytest.raises(InvalidArgument, match=said) as refused:
        start(source)

    assert str(tmp_path) not in refused.value.message
    assert "/etc" not in refused.value.message


def test_where_there_is_no_compiler_the_reference_serves_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without a reference the compiler is what is missing."""
    monkeypatch.setattr(nvrtc, "available", lambda: False)

    served = answer(cuda_source(tmp_path / "a", "nonsense"), X=floats(1, 4))

    assert served["Y"].shape == (1, 4)
    with pytest.raises(Unsupported, match="needs NVRTC, which is not installed"):
        start(cuda_source(tmp_path / "b", reference=""))


def test_errors_of_a_log_are_told_without_the_paths_in_it() -> None:
    """Those of other files by their name alone, and what cannot be read in one line."""
    kernel = Kernel("m", "", ("f",), (), list, dict, dict)  # type: ignore[arg-type]

    told = refusal("m", kernel, "/a/b/some.cuh(7): error: cannot open /root/secret/x.h\n").message
    other = refusal("m", kernel, "ptxas fatal: /a/b/c is broken\nmore").message

    assert told == "model 'm': model.cu does not compile: some.cuh line 7: cannot open <path>"
    assert other == "model 'm': model.cu does not compile: ptxas fatal: <path> is broken"


WRONG_CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"input": ()}, "does not say what it takes and gives"),
    "text": ({"input": (ModelInput("X", DataType.BYTES, (-1,)),)}, "'X' is BYTES, expected numb"),
    "a name that is none": ({"input": (ModelInput("x-y", DataType.FP32, (1,)),)}, "'x-y' is FP32"),
    "optional": ({"input": (replace(X[0], optional=True),)}, "takes no optional input"),
    "twice a name": ({"output": (replace(Y[0], name="X"),)}, "share a name"),
    "no function": ({"parameters": {"function": ""}}, "has function '', expected the name"),
    "code": ({"parameters": {"function": "f();g"}}, "has function 'f"),
    "no grid": ({"parameters": {"grid": ""}}, "has grid '', which has 'its end' where a number"),
    "four sizes": ({"parameters": {"grid": "1,1,1,1"}}, "has grid with 4 sizes"),
    "code as a grid": ({"parameters": {"grid": "exec('1')"}}, "cannot be read at"),
    "an argument": ({"parameters": {"arguments": "X, Z"}}, "has the argument 'Z', expected X, Y,"),
    "a double": ({"parameters": {"arguments": "X, float64(1)"}}, "the argument 'float64"),
    "a shape too short": (
        {"parameters": {"shape.Y": "X.rows"}},
        r"has shape\.Y of 1 sizes, expected 2",
    ),
    "a shape by an output": ({"parameters": {"shape.Y": "Y.rows, 1"}}, "has the name 'Y'"),
    "a shape that nobody knows": (
        {"output": (replace(Y[0], dims=(-1, -1)),)},
        r"has output 'Y' of unknown size, expected a parameter shape\.Y",
    ),
    "a parameter": ({"parameters": {"threads": "1"}}, "has parameter 'threads'"),
}


@pytest.mark.parametrize("case", WRONG_CONFIG)
def test_a_launch_plan_that_cannot_be_read_is_refused(case: str, tmp_path: Path) -> None:
    """When the configuration is completed, before anything is compiled."""
    change, said = WRONG_CONFIG[case]

    with pytest.raises(InvalidArgument, match=said):
        load(cuda_source(tmp_path, **change))


WRONG_LAUNCH: dict[str, tuple[dict[str, str], str]] = {
    "a grid below nothing": ({"grid": "X.rows - 9"}, r"grid is \(-7,\), expected at most"),
    "a grid too wide": ({"grid": "1, 65536"}, "expected at most 65535 where 65536 is"),
    "a block too large": ({"block": "1024, 2"}, "expected 1 to 1024 in all"),
    "no thread": ({"block": "X.rows - 2"}, "a block of"),
    "too much shared memory": ({"shared_bytes": "50000"}, "50000 bytes of shared memory"),
    "a division by nothing": ({"grid": "1 // (X.rows - 2)"}, "grid divides by 0"),
    "a number that no int holds": ({"arguments": "X, Y, int32(4294967296)"}, "no int32 holds"),
    "a shape below nothing": ({"shape.Y": "X.rows, X.rows - 3"}, "expected no negative size"),
}


@pytest.mark.parametrize("case", WRONG_LAUNCH)
def test_a_plan_that_no_device_takes_is_refused_on_a_cpu_too(case: str, tmp_path: Path) -> None:
    """A model that was tried on a CPU meets no other limits on a GPU."""
    change, said = WRONG_LAUNCH[case]

    with pytest.raises(InvalidArgument, match=said):
        answer(cuda_source(tmp_path, parameters=change), X=floats(2, 4))


WRONG_REFERENCES = {
    "another shape": ("return X[:, :1]", Internal, "gives 'Y' of shape"),
    "no output": ("return {}", Internal, "does not give the outputs Y"),
    "too many": ("return X, X", Internal, "does not give the outputs Y"),
    "its own error": ("raise ValueError('no, /etc/passwd')", Internal, "no, <path>"),
}


@pytest.mark.parametrize("case", WRONG_REFERENCES)
def test_a_reference_that_is_wrong_is_no_fault_of_the_caller(case: str, tmp_path: Path) -> None:
    """Its answer is held against the launch plan; what it raises is told in one line."""
    body, kind, said = WRONG_REFERENCES[case]
    source = cuda_source(tmp_path, reference=f"def reference(X):\n    {body}\n")

    with pytest.raises(kind, match=said):
        answer(source, X=floats(2, 4))


@pytest.mark.parametrize(
    ("text", "said"),
    [("def other(X): ...\n", "has no function 'reference'"), ("1 / 0\n", "division by zero")],
)
def test_a_reference_that_cannot_be_loaded_is_said(text: str, said: str, tmp_path: Path) -> None:
    """With its file's name."""
    with pytest.raises(PenstockError, match=rf"reference\.py.*{said}"):
        load(cuda_source(tmp_path, reference=text))


def test_a_batch_of_nothing_launches_nothing(tmp_path: Path) -> None:
    """And gives an output of nothing."""
    found = answer(cuda_source(tmp_path), X=np.zeros((2, 0), np.float32))

    assert found["Y"].shape == (2, 0)


def test_each_load_has_code_of_its_own_to_unload(tmp_path: Path) -> None:
    """A version that ends takes nothing away from one of the same source that serves."""
    steps = [CudaStep(cuda_source(tmp_path), None) for _ in range(2)]

    first, second = (step.kernel for step in steps)

    assert first.source != second.source
    assert first.text == second.text
    assert Path(first.source).stem == Path(second.source).stem == "model"
    assert LAUNCH["function"] == first.instances[0]
