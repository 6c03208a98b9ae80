"""All kernels, by name."""

from penstock_kernels.activation import SILU_MUL
from penstock_kernels.bitmask import TOKEN_BITMASK
from penstock_kernels.cache_write import CACHE_WRITE
from penstock_kernels.classify import TOP_K
from penstock_kernels.declare import Kernel, by_name
from penstock_kernels.gather import GATHER_PAD, SCATTER_ROWS
from penstock_kernels.gemv import GEMV
from penstock_kernels.image import IMAGE_NORMALISE
from penstock_kernels.norm import RMSNORM_RESIDUAL
from penstock_kernels.paged_decode import PAGED_DECODE
from penstock_kernels.pool import MEAN_POOL
from penstock_kernels.quantise import DEQUANTISE, QUANTISE
from penstock_kernels.rotary_cache import ROTARY_CACHE
from penstock_kernels.sample import SAMPLE
from penstock_kernels.source import flattened
from penstock_kernels.verify import VERIFY_MATCH, VERIFY_REJECT

KERNELS: dict[str, Kernel] = by_name(
    [
        GATHER_PAD,
        SCATTER_ROWS,
        TOP_K,
        MEAN_POOL,
        IMAGE_NORMALISE,
        QUANTISE,
        DEQUANTISE,
        RMSNORM_RESIDUAL,
        SILU_MUL,
        ROTARY_CACHE,
        CACHE_WRITE,
        PAGED_DECODE,
        TOKEN_BITMASK,
        SAMPLE,
        VERIFY_MATCH,
        VERIFY_REJECT,
        GEMV,
    ]
)


def sources() -> dict[str, tuple[str, ...]]:
    """Each CUDA source with the instances wanted of it: what a compiler is given."""
    wanted: dict[str, tuple[str, ...]] = {}
    for kernel in KERNELS.values():
        wanted[kernel.source] = wanted.get(kernel.source, ()) + kernel.instances
    return wanted


def unit(kernel: Kernel) -> tuple[str, tuple[str, ...]]:
    """What a compiler is given for a kernel: its source, flattened, and all instances of that."""
    if kernel.text:
        return kernel.text, kernel.instances
    return flattened(kernel.source), sources()[kernel.source]


def kernel(name: str) -> Kernel:
    """The kernel of that name; ValueError that lists what there is."""
    if name not in KERNELS:
        raise ValueError(f"no kernel {name!r}, expected one of {', '.join(sorted(KERNELS))}")
    return KERNELS[name]
