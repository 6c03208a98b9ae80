"""The CPU's own kernels, called with the addresses of tensors: attention over pages, straight from
where keys and values lie. Without them torch does the same, slower.
"""

import ctypes
import logging
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache

import torch

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm.attention_form import Form
from penstock_runtime.llm.cpu_build import NotBuilt, built_library
from penstock_runtime.llm.cpu_structures import (
    KINDS,
    CStep,
    CTurn,
    c_form,
    c_layer,
    c_step,
)
from penstock_runtime.llm.kv_pool import LayerCache
from penstock_runtime.llm.packing import PackedBatch

_log = logging.getLogger("penstock.llm")
WANTED = ("auto", "off", "require")


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights of the norms of each head's queries and keys before they are turned."""

    query: torch.Tensor
    key: torch.Tensor
    epsilon: float
    style: int


class CpuKernels:
    """The functions of the library for one model's pages, on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        heads = (c_void_p, c_int64, c_int64)
        self._attend = library.penstock_attend
        self._attend.restype = None
        self._attend.argtypes = [
            *[c_void_p] * 4,
            *[c_int64] * 2,
            *[c_void_p] * 2,
            *heads,
            *heads,
            *heads,
        ]
        # What every step says again; the structures are held because their addresses are.
        self._known: dict[tuple[object, ...], tuple[int, int, object]] = {}

    def step(self, batch: PackedBatch) -> CStep:
        """What the kernels must know of a step; the batch is to outlive it."""
        return c_step(batch)

    def attend(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cache: LayerCache,
        step: CStep,
        form: Form,
    ) -> None:
        """Keep k and v and attend with q: [tokens, heads, dim] each, the last dense."""
        q, k, v = (part if part.stride(2) == 1 else part.contiguous() for part in (q, k, v))
        self._call(cache, step, form, None, None, out, q, k, v)

    def turn_and_attend(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cache: LayerCache,
        step: CStep,
        form: Form,
        turn: tuple[torch.Tensor, torch.Tensor],
        norms: HeadNorms | None,
    ) -> None:
        """As `attend`, but q and k are first normalised by head and turned by their positions'
        cosines and sines: [tokens, key dim] each, dense.
        """
        cosine, sine = turn[0].data_ptr(), turn[1].data_ptr()
        how = CTurn(cosine, sine, None, None, 0.0, 0)
        if norms is not None:
            weights = norms.query.data_ptr(), norms.key.data_ptr()
            how = CTurn(cosine, sine, *weights, norms.epsilon, norms.style)
        turned = q.new_empty(q.shape)
        self._call(cache, step, form, ctypes.addressof(how), turned.data_ptr(), out, q, k, v)

    def _call(
        self,
        cache: LayerCache,
        step: CStep,
        form: Form,
        how: int | None,
        turned: int | None,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> None:
        layer, manner = self._places(cache, form)
        self._attend(
            layer,
            ctypes.addressof(step),
            manner,
            how,
            KINDS[q.dtype],
            q.shape[1],
            turned,
            out.data_ptr(),
            *(q.data_ptr(), q.stride(0), q.stride(1)),
            *(k.data_ptr(), k.stride(0), k.stride(1)),
            *(v.data_ptr(), v.stride(0), v.stride(1)),
        )

    def _places(self, cache: LayerCache, form: Form) -> tuple[int, int]:
        key = (id(cache), form.scale, form.window, form.softcap, id(form.sinks))
        known = self._known.get(key)
        if known is None:
            layer, manner, held = c_layer(cache), *c_form(form)
            places = ctypes.addressof(layer), ctypes.addressof(manner)
            known = self._known[key] = (*places, (cache, form, layer, manner, held))
        return known[0], known[1]


class RowKernels:
    """What is done to each token by itself."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._norm, self._gate = library.penstock_norm, library.penstock_gate
        self._norm.restype = self._gate.restype = None
        self._norm.argtypes = [*[c_int64] * 4, c_double, *[c_void_p] * 3]
        self._gate.argtypes = [*[c_int64] * 4, *[c_void_p] * 2]

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, style: int
    ) -> torch.Tensor:
        """The root-mean-square norm of the last dimension; styles as in the source."""
        x = x.contiguous()
        out = torch.empty_like(x)
        dim = x.shape[-1]
        places = x.data_ptr(), weight.data_ptr(), out.data_ptr()
        self._norm(KINDS[x.dtype], x.numel() // dim, dim, style, epsilon, *places)
        return out

    def gate(self, both: torch.Tensor, activation: int) -> torch.Tensor:
        """activation(gate) * up of [..., gate and up] (dense), one after the other."""
        dim = both.shape[-1] // 2
        out = both.new_empty(*both.shape[:-1], dim)
        rows = out.numel() // dim
        self._gate(KINDS[both.dtype], rows, dim, activation, both.data_ptr(), out.data_ptr())
        return out


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


def row_kernels() -> RowKernels | None:
    """The kernels for single tokens, where the library is there."""
    library, _ = _library()
    return None if library is None else RowKernels(library)


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none; built, loaded and, if need be, logged once."""
    try:
        return ctypes.CDLL(str(built_library())), ""
    except (NotBuilt, OSError) as error:
        problem = str(error) if isinstance(error, NotBuilt) else "the library does not load"
        _log.warning("language models run without the CPU's own kernels: %s", problem)
        return None, problem
