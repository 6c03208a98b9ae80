"""The CPU's own kernels, called with the addresses of tensors: attention over pages, straight from
where keys and values lie. Without them torch does the same, slower.
"""

import ctypes
import logging
from ctypes import Structure, c_double, c_int64, c_void_p
from functools import cache
from typing import Any, ClassVar

import torch

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.cpu_build import NotBuilt, built_library
from penstock_runtime.llm.kv_pool import LayerCache
from penstock_runtime.llm.packing import PackedBatch

_log = logging.getLogger("penstock.llm")
WANTED = ("auto", "off", "require")
# The numbers of `Kind` in the source.
KINDS = {
    torch.float32: 0,
    torch.bfloat16: 1,
    torch.float16: 2,
    torch.int8: 3,
    torch.float8_e4m3fn: 4,
}


class _Layer(Structure):
    _fields_: ClassVar[Any] = [
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("kv_heads", c_int64),
        ("key_dim", c_int64),
        ("value_dim", c_int64),
        ("block_size", c_int64),
        ("stored", c_int64),
    ]


class _Step(Structure):
    _fields_: ClassVar[Any] = [
        ("tables", c_void_p),
        ("contexts", c_void_p),
        ("starts", c_void_p),
        ("slots", c_void_p),
        ("rows", c_int64),
        ("pages", c_int64),
        ("tokens", c_int64),
    ]


class _Form(Structure):
    _fields_: ClassVar[Any] = [
        ("scale", c_double),
        ("softcap", c_double),
        ("window", c_int64),
        ("sinks", c_void_p),
    ]


class CpuKernels:
    """The functions of the library for one model's pages, on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        heads = (c_void_p, c_int64, c_int64)
        self._attend = library.penstock_attend
        self._attend.restype = None
        self._attend.argtypes = [c_void_p] * 3 + [c_int64] * 2 + [c_void_p, *heads, *heads, *heads]
        # What every step says again; the structures are held because their addresses are.
        self._known: dict[tuple[object, ...], tuple[int, int, object]] = {}

    def step(self, batch: PackedBatch) -> Structure:
        """What the kernels must know of a step; the batch is to outlive it."""
        return _Step(
            batch.tables.data_ptr(),
            batch.contexts.data_ptr(),
            batch.starts.data_ptr(),
            batch.slots.data_ptr(),
            *batch.tables.shape,
            batch.n_tokens,
        )

    def attend(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cache: LayerCache,
        step: Structure,
        form: Form,
    ) -> None:
        """Keep k and v and attend with q: [tokens, heads, dim] each, the last dense."""
        layer, how = self._places(cache, form)
        q, k, v = (part if part.stride(2) == 1 else part.contiguous() for part in (q, k, v))
        self._attend(
            layer,
            ctypes.addressof(step),
            how,
            KINDS[q.dtype],
            q.shape[1],
            out.data_ptr(),
            *(q.data_ptr(), q.stride(0), q.stride(1)),
            *(k.data_ptr(), k.stride(0), k.stride(1)),
            *(v.data_ptr(), v.stride(0), v.stride(1)),
        )

    def _places(self, cache: LayerCache, form: Form) -> tuple[int, int]:
        key = (id(cache), form.scale, form.window, form.softcap, id(form.sinks))
        known = self._known.get(key)
        if known is None:
            layer, how, held = _layer(cache), *_form(form)
            places = ctypes.addressof(layer), ctypes.addressof(how)
            known = self._known[key] = (*places, (cache, form, layer, how, held))
        return known[0], known[1]


def _layer(cache: LayerCache) -> _Layer:
    scales = (cache.key_scales, cache.value_scales)
    return _Layer(
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        *(None if one is None else one.data_ptr() for one in scales),
        cache.shape.kv_heads,
        cache.shape.key_dim,
        cache.shape.value_dim,
        cache.keys.shape[1],
        KINDS[cache.keys.dtype],
    )


def _form(form: Form) -> tuple[_Form, torch.Tensor | None]:
    sinks = None if form.sinks is None else form.sinks.detach().float().contiguous()
    place = None if sinks is None else sinks.data_ptr()
    return _Form(form.scale, form.softcap or 0.0, form.window or 0, place), sinks


# -- the library -----------------------------------------------------------------------------------


def kernels_for(wanted: str, device: torch.device, dtype: torch.dtype) -> CpuKernels | None:
    """The kernels, as `cpu_kernels` of the options says; None where torch is to do it. Raises
    FailedPrecondition where they are required and cannot be had.
    """
    if wanted not in WANTED:
        raise InvalidArgument(f"cpu_kernels is {wanted[:32]!r}, expected one of {list(WANTED)}")
    if wanted == "off" or device.type != "cpu" or dtype not in KINDS:
        return None
    library, problem = _library()
    if library is not None:
        return CpuKernels(library)
    if wanted == "require":
        raise FailedPrecondition(f"cpu_kernels is 'require', but {problem}")
    return None


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none; built, loaded and, if need be, logged once."""
    try:
        return ctypes.CDLL(str(built_library())), ""
    except (NotBuilt, OSError) as error:
        problem = str(error) if isinstance(error, NotBuilt) else "the library does not load"
        _log.warning("language models run without the CPU's own kernels: %s", problem)
        return None, problem
