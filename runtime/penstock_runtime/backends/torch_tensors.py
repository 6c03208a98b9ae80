"""Arrays as torch tensors and back to the datatype that was declared, without copies where the
memory allows it.
"""

from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from penstock_runtime.backends.arrays import WrongValue
from penstock_runtime.datatype import AnyArray, DataType


def torch_dtype(datatype: DataType) -> torch.dtype | None:
    """The dtype of a datatype; None for BYTES, which torch does not have."""
    name = datatype.torch_name
    return None if name is None else getattr(torch, name)


def to_torch(array: Any, datatype: DataType, device: torch.device) -> torch.Tensor:
    """An input on the model's device; on the CPU it shares the array's memory.

    BF16 arrives as uint16 halves and leaves as bfloat16. For a GPU the values go through pinned
    memory, so that the copy does not wait for the device.
    """
    tensor = array if isinstance(array, torch.Tensor) else _shared(array, datatype)
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _shared(array: Any, datatype: DataType) -> torch.Tensor:
    if not isinstance(array, np.ndarray):
        return from_dlpack(array)
    # Compiled loops take elements to be aligned, and torch knows no negative strides; bytes of the
    # wire may begin anywhere.
    if not array.flags.aligned or any(stride < 0 for stride in array.strides):
        array = np.array(array)
    if not array.flags.writeable:
        array = np.asarray(_Borrowed(array))
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if datatype is DataType.BF16 else tensor


class _Borrowed:
    """Shows a read-only array as a writable one, and keeps it alive.

    A tensor has no read-only flag, so torch warns of every array that has one. The bytes belong to
    this one request: a module that works in place changes its own input and nothing else.
    """

    def __init__(self, array: AnyArray) -> None:
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def as_tensor(value: Any, datatype: DataType) -> torch.Tensor:
    """An output as a tensor of the datatype, where it is. Raises WrongValue.

    Casts stay within the kind: float64 to float32, never float to int.
    """
    tensor = value if isinstance(value, torch.Tensor) else _from_scalar(value)
    wanted = torch_dtype(datatype)
    if tensor.dtype == wanted:
        return tensor.detach()
    if wanted is None or not torch.can_cast(tensor.dtype, wanted):
        raise WrongValue(f"is {str(tensor.dtype).removeprefix('torch.')}")
    return tensor.detach().to(wanted)


def _from_scalar(value: Any) -> torch.Tensor:
    if isinstance(value, bool | int | float | np.ndarray | np.generic):
        return torch.as_tensor(value)
    raise WrongValue(f"is a {type(value).__name__}")
