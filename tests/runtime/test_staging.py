"""Laws of staging: what is put together on a device is what the host would have put together,
padding is nobody's bytes, and rows come back as they went.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.fakes import FakeLoaded, FunctionExecutable, config, pending
from tests.runtime.test_batch import member, padded_config
from tests.runtime.test_instance import OneBatch, instance

from penstock_kernels import run
from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.nvrtc import NvrtcError, NvrtcMissingError
from penstock_kernels.run import Reference
from penstock_runtime.backends import torch_deck as torch_deck_module
from penstock_runtime.backends.base import Placement, Staged
from penstock_runtime.backends.torch_deck import TorchDeck, deck_of
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_cast import casts_of
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter, Reshape
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType, bf16_to_float32
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.memory.host_deck import HostDeck
from penstock_runtime.memory.staging import Lane, Staging
from penstock_runtime.request import EMPTY, InferRequest, RequestedOutput
from penstock_runtime.tensor import to_host

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=6)
RAGGED = Lane("X", DataType.FP32, DataType.FP32, pad=-9.0)


class Poisoned(HostDeck):
    """Whatever was not written is NaN."""

    downs = 0

    def host(self, size: int) -> Any:
        slab = super().host(size)
        slab[:] = 0xFF
        return slab

    def down(self, size: int) -> Any:
        self.downs += 1
        return super().down(size)

    def empty(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        made = super().empty(shape, datatype)
        made.view(np.uint8)[...] = 0xFF
        return made


class OnTensors:
    """The runner of GPUs, for tensors of the host."""

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        Reference().run(kernel, {name: self._host(value) for name, value in arguments.items()})

    @staticmethod
    def _host(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.dtype is torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()


def torch_deck() -> TorchDeck:
    return TorchDeck(torch.device("cpu"), OnTensors())  # type: ignore[arg-type]


def casting(cast: str, dims: tuple[int, ...] = (3, 5)) -> ModelConfig:
    """A model over [batch, 3, 5] that wants its input in another datatype."""
    made = config(batching=DynamicBatching(), dims=dims)
    return replace(made, parameters={"batch_cast": ModelParameter(cast)})


def ragged(shapes: list[tuple[int, int]]) -> list[Any]:
    """Parts of these shapes, no two values alike."""
    return [
        np.arange(r * n, dtype=np.float32).reshape(r, n) + 100 * i
        for i, (r, n) in enumerate(shapes)
    ]


@given(SHAPES)
def test_scattering_undoes_gathering_for_any_ragged_batch(shapes: list[tuple[int, int]]) -> None:
    """Every row comes back as it went, and nothing of what padding added."""
    parts, length = ragged(shapes), max(n for _, n in shapes)
    staging = Staging(Poisoned(Reference()))
    counts = [n for rows, n in shapes for _ in range(rows)]

    batch = staging.merge([(RAGGED, parts)], length)["X"]
    back = staging.scatter(batch, counts, DataType.FP32)

    expected = [row for part in parts for row in part]
    assert len(back) == len(expected)
    for row, sent in zip(back, expected, strict=True):
        np.testing.assert_array_equal(row, sent)


@given(SHAPES)
def test_a_staged_batch_is_the_hosts_with_its_mask(shapes: list[tuple[int, int]]) -> None:
    """Padding is the pad value, never bytes of others or of what was there before."""
    members = [member(part, part.shape[1]) for part in ragged(shapes)]
    model = padded_config(pad_value=-9.0)
    host, staged = BatchPlan(model, 1), staged_merge(model, Poisoned(Reference()))
    assert staged is not None

    for _ in range(2):
        found = staged(members)

    expected = host.merge(Batch.of(members))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=6))
def test_outputs_on_a_device_are_cut_there_as_the_host_cuts_them(
    shapes: list[tuple[int, int]],
) -> None:
    """Merged, computed and split, each request has its own; what padding became stays behind."""
    members = [member(part, part.shape[1]) for part in ragged(shapes)]
    model, batch = padded_config(pad_value=-9.0), Batch.of(members)
    plan, staged = BatchPlan(model, 1), staged_merge(model, torch_deck())
    assert staged is not None
    outputs = {"Y": staged(members)["X"] * 2}

    given = staged.cut(members, outputs)
    timings, said = [None] * len(members), [EMPTY] * len(members)
    found = plan.split(batch, outputs, said, timings, given)
    expected = plan.split(batch, outputs, said, timings)

    assert list(given) == ["Y"]
    for one, other in zip(found, expected, strict=True):
        assert one.outputs[0].shape == other.outputs[0].shape
        np.testing.assert_array_equal(one.outputs[0].array, other.outputs[0].array)


def test_outputs_that_are_not_as_declared_are_left_to_the_host() -> None:
    """Which has the words for what is wrong with them; and so are arrays of the host."""
    members = [member(np.ones((2, 3)), 3)]
    staged = staged_merge(padded_config(), torch_deck())
    assert staged is not None

    for wrong in (
        torch.ones(1, 3),
        torch.ones(2, 2),
        torch.ones(2),
        torch.ones(2, 3, dtype=torch.float64),
        np.ones((2, 3), np.float32),
    ):
        assert staged.cut(members, {"Y": wrong}) == {}
    assert staged.cut(members, {}) == {}


def asking(rows: int, *classes: int) -> Any:
    """A request of so many rows for the classes of Y; none: for all outputs as they are."""
    made = member(np.zeros((rows, 2)))
    wanted = tuple(RequestedOutput("Y", {"classification": n} if n else EMPTY) for n in classes)
    made.request = replaced(made.request, wanted)
    return made


def replaced(request: InferRequest, outputs: tuple[RequestedOutput, ...]) -> InferRequest:
    return request._replace(outputs=outputs)


def test_classes_are_ranked_on_the_device_with_the_same_texts() -> None:
    """Of several requests who want different numbers of them, one more than there are."""
    members = [asking(2, 3), asking(1, 1), asking(1, 9)]
    model = config(batching=DynamicBatching(), dims=(2, 3))
    plan, batch = BatchPlan(model, 1, {"Y": (b"cat", b"", b"dog")}), Batch.of(members)
    staged = staged_merge(model, torch_deck())
    assert staged is not None
    values = np.random.default_rng(2).integers(-3, 4, (4, 2, 3)).astype(np.float32)
    values[0, 0, 1], values[1, 1, 2] = np.nan, -np.inf
    outputs = {"Y": torch.from_numpy(values)}
    timings, said = [None] * 3, [EMPTY] * 3

    given = staged.cut(members, outputs)
    found = plan.split(batch, outputs, said, timings, given)
    expected = plan.split(batch, outputs, said, timings)

    assert list(given) == ["Y"]
    for one, other in zip(found, expected, strict=True):
        assert one.outputs[0].shape == other.outputs[0].shape
        assert one.outputs[0].array.tolist() == other.outputs[0].array.tolist()


@pytest.mark.parametrize("others", [(), (0,), (65,)])
def test_who_wants_the_numbers_too_has_all_of_them_brought(others: tuple[int, ...]) -> None:
    """Or more classes than a kernel is good for."""
    model = config(batching=DynamicBatching(), dims=(2, 3))
    staged = staged_merge(model, torch_deck())
    assert staged is not None

    given = staged.cut([asking(1, 2), asking(1, *others)], {"Y": torch.zeros(2, 2, 3)})

    assert given == {}


@needs_compiler
def test_the_cuda_source_stages_as_the_reference_does() -> None:
    """Cast and padded, for widths that are no vector's."""
    parts = ragged([(1, 5), (2, 0), (1, 33), (3, 8)])
    lane = replace(RAGGED, wanted=DataType.FP16)

    found = [
        Staging(Poisoned(runner)).merge([(lane, parts)], 40)["X"]
        for runner in (Reference(), Emulated(CACHE, order=1))
    ]

    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].dtype == np.float16


@pytest.mark.parametrize("cast", ["FP16", "BF16", "TYPE_FP16"])
def test_a_cast_input_is_the_same_from_the_host_and_staged(cast: str) -> None:
    """Alone or in company, with too large a number infinite; a torch model gets a tensor."""
    model = casting(f" X : {cast}")
    values = np.random.default_rng(3).normal(size=(2, 3, 5)) * 10
    values[0, 0, 0] = 1e30
    together = [member(values), member(values[:1])]
    staged = staged_merge(model, torch_deck())
    assert staged is not None

    for members in (together, together[:1]):
        host = BatchPlan(model, 1).merge(Batch.of(members))["X"]
        tensor = staged(members)["X"]

        datatype = DataType.BF16 if cast == "BF16" else DataType.FP16
        assert host.dtype == datatype.numpy
        assert tensor.dtype == getattr(torch, datatype.torch_name or "")
        np.testing.assert_array_equal(to_host(tensor), host)
        wide = bf16_to_float32(host) if cast == "BF16" else host.astype(np.float32)
        np.testing.assert_allclose(wide.ravel()[1:15], values.ravel()[1:15], rtol=1e-2)


def test_plain_inputs_are_views_of_the_slab() -> None:
    """No kernel runs and nothing is copied twice where the bytes are the batch."""
    model = config(batching=DynamicBatching(), dims=(4,))
    deck = torch_deck()
    staged = staged_merge(model, deck)
    assert staged is not None

    found = staged([member(np.full((2, 4), 3.0)), member(np.full((1, 4), 5.0))])["X"]

    slab = deck.down(0)
    assert found.untyped_storage().data_ptr() == slab.untyped_storage().data_ptr()
    assert found[:, 0].tolist() == [3, 3, 5]


def test_arrays_that_are_not_the_hosts_are_merged_as_without_a_slab() -> None:
    """And arrays that are in no order are copied in order."""
    model = config(batching=DynamicBatching(), dims=(4,))
    staged = staged_merge(model, HostDeck(Reference()))
    assert staged is not None
    odd = member(np.zeros((1, 4)))
    odd.arrays = {"X": torch.ones(1, 4)}
    turned = member(np.zeros((2, 4)))
    turned.arrays = {"X": np.arange(8, dtype=np.float32).reshape(4, 2).T}

    assert staged([odd])["X"] is odd.arrays["X"]
    np.testing.assert_array_equal(staged([turned, turned])["X"][2:], turned.arrays["X"])


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 0},
        {"input": (ModelInput("X", DataType.BYTES, (1,)),)},
        {"input": (ModelInput("X", DataType.BYTES, (-1,), allow_ragged_batch=True),)},
        {"input": (ModelInput("X", DataType.INT32, (2,), is_shape_tensor=True),)},
        {"output": (ModelOutput("Y", DataType.INT32, (2,), is_shape_tensor=True),)},
    ],
)
def test_what_is_no_numbers_of_the_devices_is_merged_on_the_host(change: dict[str, Any]) -> None:
    """Nothing is staged half."""
    model = replace(config(batching=DynamicBatching()), **change)

    assert staged_merge(model, HostDeck(Reference())) is None


def test_a_padded_input_that_is_taken_in_another_shape_is_padded_on_the_host() -> None:
    """Where its length is in that shape nobody says."""
    turned = ModelInput("X", DataType.FP32, (-1,), reshape=Reshape((1, -1)))
    model = replace(padded_config(), input=(turned,))

    assert staged_merge(model, HostDeck(Reference())) is None


def test_what_no_kernel_pads_is_padded_on_the_host() -> None:
    """Its datatype is all that matters."""
    model = replace(padded_config(), input=(ModelInput("X", DataType.INT8, (-1,)),))

    assert staged_merge(model, HostDeck(Reference())) is None


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Z: FP16", "has 'Z: FP16', expected NAME: DATATYPE, the name one of X"),
        ("X", "expected FP16, BF16 for 'X', a FP32"),
        ("X: INT8", "expected FP16, BF16 for 'X'"),
        ("X: FP16, ", "expected NAME: DATATYPE"),
    ],
)
def test_a_cast_that_there_is_not_is_refused(said: str, text: str) -> None:
    """When the model is loaded."""
    with pytest.raises(InvalidArgument, match=text):
        BatchPlan(casting(said), 1)


def test_a_cast_needs_a_batcher() -> None:
    """Without one nobody would put batches together."""
    model = replace(casting("X: FP16"), dynamic_batching=None)

    with pytest.raises(InvalidArgument, match="only where there is dynamic_batching"):
        casts_of(model)


def test_on_a_cpu_torch_models_are_merged_as_always() -> None:
    """There is no deck, and none is looked for."""
    assert deck_of(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (NoDeviceError("CuPy is not installed"), ""),
        (NvrtcMissingError("no NVRTC library"), ""),
        (NvrtcError("invalid value for --gpu-architecture"), "invalid value"),
        (RuntimeError("CUDA_ERROR_INVALID_IMAGE"), "CUDA_ERROR_INVALID_IMAGE"),
    ],
)
def test_where_kernels_cannot_be_loaded_batches_are_merged_on_the_host(
    refusal: Exception, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is served all the same; what nobody chose is told, once for all instances."""

    class Refusing:
        def load(self, _kernel: Kernel) -> None:
            raise refusal

    torch_deck_module._tell.cache_clear()
    monkeypatch.setattr(run, "device_runner", Refusing)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())

    decks = [deck_of(torch.device("cuda", index)) for index in (0, 0, 1)]

    assert decks == [None, None, None]
    assert caplog.text.count("put together on the host") == (1 if told else 0)
    assert told in caplog.text


def test_an_instance_with_a_deck_is_given_what_that_put_together() -> None:
    """Its outputs answer each request as ever."""
    members = [pending(), pending()]
    for number, one in enumerate(members):
        one.arrays = {"X": np.full((1, 2), number, np.float32)}
    deck = Poisoned(Reference())
    seen: list[Any] = []

    class OnDeck(FunctionExecutable, Staged):
        @property
        def deck(self) -> HostDeck:
            return deck

    class Loaded(FakeLoaded):
        def executable(self, placement: Placement) -> FunctionExecutable:
            return OnDeck(lambda array: seen.append(array) or array + 1)  # type: ignore[func-returns-value]

    made = instance(Loaded(lambda array: array), OneBatch(*members))
    made.start()
    ended = made.join(30)

    assert ended
    assert seen[0].tolist() == [[0, 0], [1, 1]]
    assert deck.downs == 1
