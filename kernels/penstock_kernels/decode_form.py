"""Which form of paged attention serves a call: the scalar one, or that of the tensor cores. Decided
by shapes alone, so that a captured graph and the step it was captured from take the same.
"""

from penstock_kernels.forms import MMA, SCALAR, Choice

# The dimensions of heads that the tensor cores' form has instances for, by the bytes of a number.
# Four lanes read 64 bytes of a key, and for heads between these each load would have to be tested.
DIMS = {2: (64, 96, 128, 256), 1: (64, 128, 256)}
# The query heads of a block of it, which are the columns of one product.
COLUMNS = 8
_PLACES = 2**31


def _refusal(dim: int, itemsize: int, places: int) -> str:
    """Why the tensor cores' form cannot serve heads of this dimension, of which the cache has that
    many; nothing if it can.
    """
    if dim not in DIMS[itemsize]:
        return f"heads of dimension {dim}, expected one of {', '.join(map(str, DIMS[itemsize]))}"
    if places >= _PLACES:
        return f"{places} heads of keys, expected fewer than {_PLACES}"
    return ""


def decode_form(dim: int, group: int, itemsize: int, places: int) -> Choice:
    """The form for `group` query heads that share a head of the cache, of numbers of so many bytes.

    By counted instructions (docs/DECISIONS.md): the sums over lanes of the scalar form take longer
    than memory even for one query head, and the more so for a group or eight bits; the tensor
    cores' form has none, and does up to eight heads for the price of one.
    """
    if why := _refusal(dim, itemsize, places):
        return Choice(SCALAR, why)
    what = f"{group} query heads for each of {8 * itemsize} bits"
    return Choice(MMA, f"{what}: sums over lanes would take longer than memory")
