"""Laws of our kernels as models: the signature is the kernel's, the answers are those of the CUDA
source, what a kernel does not take is refused with what it takes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import needs_compiler
from tests.runtime.kernel_folders import answer, both_ways, floats, kernel_source
from tests.runtime.model_folders import load, source_of

from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.kernel.images import check_sizes
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported

IMAGES: dict[str, Any] = {
    "IMAGE": np.random.default_rng(1).integers(0, 256, 27 + 3 * 5 * 3, np.uint8),
    "IMAGE_SHAPE": np.array([[3, 3, 3], [5, 3, 3]], np.int32),
}
IMAGE_OPTIONS = {
    "kernel": "image_normalise",
    "height": "4",
    "width": "6",
    "mean": "0.5",
    "deviation": "0.2,0.3,0.4",
}
CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "images": (IMAGE_OPTIONS, IMAGES),
    "images in FP32": ({**IMAGE_OPTIONS, "datatype": "FP32"}, IMAGES),
    "images in BF16": ({**IMAGE_OPTIONS, "datatype": "BF16"}, IMAGES),
    "pooling": (
        {"kernel": "mean_pool", "width": "8"},
        {"STATES": floats(3, 5, 8), "MASK": np.tri(3, 5, dtype=np.int64)},
    ),
    "pooling without a mask": (
        {"kernel": "mean_pool", "width": "8", "normalise": "false", "datatype": "FP16"},
        {"STATES": floats(3, 5, 8).astype(np.float16)},
    ),
    "classes": ({"kernel": "top_k", "k": "3"}, {"VALUES": floats(4, 70)}),
    "classes without softmax": (
        {"kernel": "top_k", "k": "1", "softmax": "false"},
        {"VALUES": floats(4, 3)},
    ),
    "quantising": ({"kernel": "quantise", "group": "8"}, {"VALUES": floats(3, 16)}),
    "quantising to 4 bits": (
        {"kernel": "quantise", "group": "8", "bits": "4"},
        {"VALUES": floats(3, 16)},
    ),
    "dequantising": (
        {"kernel": "dequantise", "group": "4"},
        {"PACKED": np.arange(24, dtype=np.uint8).reshape(2, 12), "SCALE": floats(2, 3)},
    ),
}


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_the_reference_answers_as_the_cuda_source_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, shapes and dtypes are equal, values as near as the dtype allows."""
    parameters, inputs = CASES[case]
    source = kernel_source(tmp_path, parameters, max_batch_size=8)

    reference, emulated = both_ways(monkeypatch, source, **inputs)

    assert reference.keys() == emulated.keys()
    for name, array in reference.items():
        assert array.dtype == emulated[name].dtype
        wide = [np.asarray(one, np.float64) for one in (emulated[name], array)]
        tolerance = 1e-6 if array.dtype == np.float32 else 1e-2
        np.testing.assert_allclose(wide[0], wide[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_the_signature_is_the_kernels(case: str, tmp_path: Path) -> None:
    """What a configuration leaves out is filled in, and what comes out is what that says."""
    parameters, inputs = CASES[case]
    source = kernel_source(tmp_path, parameters, max_batch_size=8)
    config, loaded = load(source)
    loaded.close()

    outputs = answer(source, **inputs)

    assert {tensor.name for tensor in config.output} == outputs.keys()
    assert config.dynamic_batching is not None
    for tensor in config.output:
        shape = outputs[tensor.name].shape[1:]
        assert len(shape) == len(tensor.dims)
        assert all(-1 in (a, b) or a == b for a, b in zip(shape, tensor.dims, strict=True))


def test_quantised_values_come_back_within_half_a_step(tmp_path: Path) -> None:
    """There and back no value moves by more than half of its group's scale."""
    x, options = floats(3, 64), {"group": "16", "bits": "4"}
    narrow = answer(
        kernel_source(tmp_path, {"kernel": "quantise", **options}, max_batch_size=8), VALUES=x
    )

    back = answer(
        kernel_source(tmp_path, {"kernel": "dequantise", **options}, max_batch_size=8), **narrow
    )

    assert narrow["PACKED"].shape == (3, 32)
    limit = np.repeat(narrow["SCALE"], 16, axis=1) * 0.5001
    assert (np.abs(back["VALUES"] - x) <= limit).all()


def test_without_batches_a_kernel_takes_one_item(tmp_path: Path) -> None:
    """The batch is in no shape then, neither of what goes in nor of what comes out."""
    image = IMAGES["IMAGE"][:27].reshape(3, 3, 3)

    pixels = answer(kernel_source(tmp_path, IMAGE_OPTIONS), IMAGE=image)["PIXELS"]
    pooled = answer(
        kernel_source(tmp_path, {"kernel": "mean_pool", "width": "8"}), STATES=floats(5, 8)
    )
    best = answer(kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}), VALUES=floats(9))

    together = kernel_source(tmp_path, IMAGE_OPTIONS, max_batch_size=8)
    np.testing.assert_array_equal(pixels, answer(together, **IMAGES)["PIXELS"][0])
    assert pooled["EMBEDDING"].shape == (8,)
    assert best["SCORES"].shape == best["INDICES"].shape == (2,)


def test_classes_have_the_names_of_the_label_file(tmp_path: Path) -> None:
    """The line of a class is its name; a class behind the last line is refused."""
    source = kernel_source(
        tmp_path, {"kernel": "top_k", "k": "2", "labels": "names.txt"}, max_batch_size=8
    )
    (source.root / "names.txt").write_text("zero\none\ntwo\n")

    found = answer(source, VALUES=np.array([[0.0, 2.0, 1.0]], np.float32))

    assert found["LABELS"].tolist() == [[b"one", b"two"]]
    with pytest.raises(InvalidArgument, match=r"has a class 3, but the label file has 3 lines"):
        answer(source, VALUES=np.array([[0.0, 2.0, 1.0, 9.0]], np.float32))


def test_labels_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    """A name that leads out is refused when the model is loaded."""
    (tmp_path / "secret.txt").write_text("x\n")
    source = kernel_source(tmp_path, {"kernel": "top_k", "labels": "../secret.txt"})

    with pytest.raises(InvalidArgument, match="leads out of the model's folder"):
        load(source)


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a kernel that is not there": ({"kernel": "resize"}, "no kernel 'resize' to serve, expected"),
    "one that is not for models": ({"kernel": "paged_decode"}, "expected one of image_normalise"),
    "a parameter that is not known": (
        {"kernel": "top_k", "K": "3"},
        "has parameter 'K', expected kernel or k or softmax or labels or datatype",
    ),
    "no height": ({"kernel": "image_normalise"}, "has height '', expected an integer of 1 to"),
    "a size that is no number": ({**IMAGE_OPTIONS, "width": "1e9"}, "has width '1e9'"),
    "two means": ({**IMAGE_OPTIONS, "mean": "1,2"}, "has mean '1,2', expected 3 numbers"),
    "a mean that is none": ({**IMAGE_OPTIONS, "mean": "nan"}, "expected 3 numbers"),
    "no deviation": ({**IMAGE_OPTIONS, "deviation": "1,0,1"}, "has a deviation of 0"),
    "integers as floats": ({**IMAGE_OPTIONS, "datatype": "INT8"}, "one of FP16, FP32, BF16"),
    "neither true nor false": ({"kernel": "top_k", "softmax": "1"}, "expected true or false"),
    "five bits": ({"kernel": "quantise", "bits": "5"}, "has bits 5, expected 4 or 8"),
    "odd groups of halves": (
        {"kernel": "quantise", "bits": "4", "group": "3"},
        "has groups of 3, expected an even number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_parameter_is_refused_with_what_was_expected(case: str, tmp_path: Path) -> None:
    """When the model is loaded, not when somebody asks it."""
    parameters, text = REFUSED[case]

    with pytest.raises(InvalidArgument, match=text):
        load(kernel_source(tmp_path, parameters, max_batch_size=8))


WRONG_INPUTS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "an image without a pixel": (
        IMAGE_OPTIONS,
        {"IMAGE": np.zeros(0, np.uint8), "IMAGE_SHAPE": np.array([[0, 3, 3]])},
        "an image of 0 x 3 x 3",
    ),
    "fewer classes than k": (
        {"kernel": "top_k", "k": "5"},
        {"VALUES": floats(1, 3)},
        "k is 5, expected 1 to the 3 values",
    ),
    "a mask of another length": (
        {"kernel": "mean_pool", "width": "8"},
        {"STATES": floats(1, 5, 8), "MASK": np.ones((1, 4), np.int64)},
        r"'MASK' has shape \[1, 4\], expected that of the tokens, \[1, 5\]",
    ),
    "a row that is no number of groups": (
        {"kernel": "quantise", "group": "8"},
        {"VALUES": floats(1, 12)},
        "12 elements in a row, expected a multiple of the group of 8",
    ),
    "scales that are too few": (
        {"kernel": "dequantise", "group": "4"},
        {"PACKED": np.zeros((1, 8), np.uint8), "SCALE": floats(1, 1)},
        r"'SCALE' has shape \[1, 1\], expected \[1, 2\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_inputs_that_a_kernel_refuses_are_the_callers_fault(case: str, tmp_path: Path) -> None:
    """With the number that was wrong, and nothing computed."""
    parameters, inputs, text = WRONG_INPUTS[case]

    with pytest.raises(InvalidArgument, match=text):
        answer(kernel_source(tmp_path, parameters, max_batch_size=8), **inputs)


def test_images_have_sides_that_a_kernel_can_index() -> None:
    """Sides up to 16384 pass, longer ones and other channels do not."""
    check_sizes(np.array([[16384, 1, 3]]))

    for size in ([16385, 1, 3], [1, 16385, 3], [2, 2, 4], [-1, 2, 3]):
        with pytest.raises(InvalidArgument, match="expected sides"):
            check_sizes(np.array([size]))


def test_a_configuration_may_say_less_than_the_kernel_allows(tmp_path: Path) -> None:
    """Dims that are narrower stay; another name, datatype or rank is refused."""
    source = kernel_source(tmp_path, {"kernel": "top_k"}, max_batch_size=8)
    narrow = (ModelInput("VALUES", DataType.FP32, (10,)),)

    config, _ = load(replace(source, config=replace(source.config, input=narrow)))

    assert config.input == narrow
    for wrong in (
        ModelInput("SCORES", DataType.FP32, (10,)),
        ModelInput("VALUES", DataType.FP16, (10,)),
        ModelInput("VALUES", DataType.FP32, (2, 5)),
    ):
        with pytest.raises(InvalidArgument, match="but its kernel has"):
            load(replace(source, config=replace(source.config, input=(wrong,))))
    output = (ModelOutput("SCORES", DataType.FP32, (5,)),)
    with pytest.raises(InvalidArgument, match="has output no 'INDICES'"):
        load(replace(source, config=replace(source.config, output=output)))


def test_an_instance_on_a_gpu_that_is_not_there_says_what_is_missing(tmp_path: Path) -> None:
    """Wherever the placement came from."""
    _, loaded = load(kernel_source(tmp_path, {"kernel": "top_k"}))

    with pytest.raises(Unsupported, match="kernels on a GPU: no CUDA device"):
        loaded.executable(Placement("m_0", "KIND_GPU", 0))


def test_a_model_cu_is_recognised_unless_a_model_py_launches_it(tmp_path: Path) -> None:
    """By file names only."""
    (version := tmp_path / "m" / "1").mkdir(parents=True)
    (version / "model.cu").write_text("")
    backend = default_registry().find(source_of(version))
    (version / "model.py").write_text("")

    assert backend.name == "kernel"
    assert default_registry().find(source_of(version)).name == "python"
