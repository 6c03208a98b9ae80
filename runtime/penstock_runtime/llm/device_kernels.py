"""The project's kernels on torch's tensors, on the GPU that holds them: keys and values to their
pages, attention of new tokens over pages, products with quantised weights. Tensors go as pointers,
on the stream that is torch's current one at each launch. What no kernel takes, torch does.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch.utils.weak import WeakIdKeyDictionary

from penstock_kernels import gemv, paged_decode
from penstock_kernels.bitmask import TOKEN_BITMASK
from penstock_kernels.cache_write import CACHE_WRITE
from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError
from penstock_kernels.run import Runner, device_runner
from penstock_kernels.sample import SAMPLE
from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.kv_pool import LayerCache
from penstock_runtime.llm.packing import PackedBatch
from penstock_runtime.llm.quantised_weight import QuantisedWeight

_log = logging.getLogger("penstock.llm")
WANTED = ("auto", "off", "require")
_DTYPES = (torch.float16, torch.bfloat16)
USED = (CACHE_WRITE, paged_decode.PAGED_DECODE, gemv.GEMV, SAMPLE, TOKEN_BITMASK)


class Launcher(Protocol):
    """Who executes kernels; see `penstock_kernels.run`."""

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int = 0) -> None:
        """Enqueue one call on a stream."""


class DeviceKernels:
    """Kernels on one device. `stream` gives the handle of torch's current stream, `processors` is
    how many multiprocessors there are to fill.
    """

    def __init__(self, launcher: Launcher, stream: Callable[[], int], processors: int) -> None:
        self._launcher = launcher
        self._stream = stream
        self._processors = processors
        # A model's sinks as kernels take them, for as long as the model is there.
        self._sinks: Any = WeakIdKeyDictionary()

    def launch(self, kernel: Kernel, **arguments: Any) -> None:
        """One call, on torch's current stream."""
        self._launcher.run(kernel, arguments, self._stream())

    def attends(self, q: torch.Tensor, cache: LayerCache) -> bool:
        """Whether a layer's pages are written and read by the kernels."""
        shape = cache.shape
        return (
            q.dtype in _DTYPES
            and shape.key_dim == shape.value_dim
            and paged_decode.fits(shape.key_dim)
            and q.shape[1] % shape.kv_heads == 0
        )

    def store(
        self, cache: LayerCache, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor
    ) -> None:
        """Keep k and v ([tokens, kv heads, dim]); a negative slot keeps nothing."""
        self.launch(
            CACHE_WRITE,
            k=k.contiguous(),
            v=v.contiguous(),
            slot=slots,
            k_cache=cache.keys,
            v_cache=cache.values,
            k_scale=cache.key_scales,
            v_scale=cache.value_scales,
        )

    def decode(
        self, out: torch.Tensor, q: torch.Tensor, cache: LayerCache, batch: PackedBatch, form: Form
    ) -> None:
        """Attend with the tokens of the rows that decode, [rows, heads, dim], out dense."""
        rows, heads, dim = q.shape
        size = cache.keys.shape[1]
        # By what is known on the host: a captured graph has the geometry of its widest table.
        longest = batch.tables.shape[1] * size
        splits = paged_decode.wanted_splits(rows, cache.shape.kv_heads, longest, self._processors)
        self.launch(
            paged_decode.PAGED_DECODE,
            q=q.contiguous(),
            k_cache=cache.keys,
            v_cache=cache.values,
            k_scale=cache.key_scales,
            v_scale=cache.value_scales,
            table=batch.tables[:rows],
            length=batch.contexts[:rows],
            sinks=self._float_sinks(form),
            partial=q.new_empty(rows, heads, splits, dim + 2, dtype=torch.float32),
            out=out,
            scale=form.scale,
            softcap=form.softcap or 0.0,
            window=form.window or 0,
            page_size=size,
        )

    def multiplies(self, x: torch.Tensor, weight: QuantisedWeight) -> bool:
        """Whether rows [rows, inputs] are few enough, and the weight of a form that is known."""
        few = 0 < len(x) <= gemv.most_rows(weight.inputs, weight.group, weight.bits)
        return few and x.dtype in _DTYPES and gemv.fits(weight.inputs, weight.group)

    def multiply(
        self, x: torch.Tensor, weight: QuantisedWeight, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """x [rows, inputs] times the weight's numbers, plus a float32 bias."""
        y = x.new_empty(len(x), weight.outputs)
        self.launch(
            gemv.GEMV,
            x=x.contiguous(),
            data=weight.data,
            scale=weight.scales,
            bias=bias,
            y=y,
            bits=weight.bits,
        )
        return y

    def _float_sinks(self, form: Form) -> torch.Tensor | None:
        if form.sinks is None:
            return None
        known: torch.Tensor | None = self._sinks.get(form.sinks)
        if known is None:
            known = self._sinks[form.sinks] = form.sinks.detach().float().contiguous()
        return known

    def __deepcopy__(self, _: object) -> "DeviceKernels":
        # A layer that is copied is multiplied by the same device.
        return self


def device_kernels(wanted: str, device: torch.device) -> DeviceKernels | None:
    """The kernels of a device, as `cuda_kernels` of the options says: auto, off or require. None
    where torch is to do it; FailedPrecondition where they are required and cannot be had.
    """
    if wanted not in WANTED:
        raise InvalidArgument(f"cuda_kernels is {wanted[:32]!r}, expected one of {list(WANTED)}")
    if wanted == "off":
        return None
    if device.type == "cuda":
        kernels, problem = _kernels(
            torch.cuda.current_device() if device.index is None else device.index
        )
    else:
        kernels, problem = None, f"the model is on {device.type}"
    if kernels is None and wanted == "require":
        raise FailedPrecondition(f"cuda_kernels is 'require', but {problem}")
    return kernels


class _OnDevice:
    """Launches on one device, whichever is current in the thread: torch's operations follow their
    tensors, and a launch must as well.
    """

    def __init__(self, runner: Runner, index: int) -> None:
        self._runner = runner
        self._index = index

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int = 0) -> None:
        if torch.cuda.current_device() == self._index:
            self._runner.run(kernel, arguments, stream)
            return
        with torch.cuda.device(self._index):
            self._runner.run(kernel, arguments, stream)


@cache
def _kernels(index: int) -> tuple[DeviceKernels | None, str]:
    """Of one device, loaded into it: none may be while a graph is captured."""
    try:
        runner = device_runner()
        with torch.cuda.device(index):
            torch.zeros(1, device="cuda")  # torch makes the context that CuPy then finds
            for kernel in USED:
                runner.load(kernel)
    except NoDeviceError as error:
        problem = str(error)
    except Exception as error:
        problem = f"the kernels do not load: {error}"
    else:
        processors = torch.cuda.get_device_properties(index).multi_processor_count

        def stream() -> int:
            handle: int = torch.cuda.current_stream(index).cuda_stream
            return handle

        return DeviceKernels(_OnDevice(runner, index), stream, processors), ""
    _log.warning("language models on GPU %d run without the project's kernels: %s", index, problem)
    return None, problem
