"""Arrays in host memory from and to DLPack, bfloat16 included, without a copy and without torch.

The structures are those of dlpack.h. A capsule that is read is kept alive instead of consumed: its
memory is given back when the last array on it is gone.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.datatype import AnyArray, DataType

CPU, CUDA, CUDA_HOST = 1, 2, 3
_BFLOAT = 4
_NAMES = (b"dltensor", b"dltensor_versioned")
# dtype codes of dlpack.h: integers, unsigned, floats, and booleans.
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
_pointer_of.restype = ctypes.c_void_p


class _Memory:
    """What numpy takes for the owner of foreign memory."""

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__ = interface
        self.owner = owner


class Found(NamedTuple):
    """What a capsule holds; `array` is None for memory of a device."""

    device: tuple[int, int]
    datatype: DataType
    array: AnyArray | None


def is_capsule(value: object) -> bool:
    """Whether this is a DLPack capsule that nobody has consumed."""
    return type(value).__name__ == "PyCapsule" and any(_is_valid(value, name) for name in _NAMES)


def read(capsule: object) -> Found:
    """The array of a capsule, on its memory. TritonModelException for what no tensor can be."""
    tensor = _tensor_of(capsule)
    device = (tensor.device_type, tensor.device_id)
    datatype = _datatype_of(tensor)
    if tensor.device_type not in (CPU, CUDA_HOST):
        return Found(device, datatype, None)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * datatype.size for i in range(tensor.ndim))
    address = (tensor.data or 0) + tensor.byte_offset
    if 0 in shape or not address:
        return Found(device, datatype, np.empty(shape, datatype.numpy))
    return Found(device, datatype, _on_memory(address, shape, strides, datatype, capsule))


def export(array: AnyArray, datatype: DataType) -> object:
    """A capsule of an array, which stays where it is; bfloat16 comes as its uint16 halves.

    DLPack cannot say that memory is read-only, which numpy refuses: whoever reads the capsule may
    write. So only what nobody else has is exported where it is; see `Tensor`.
    """
    if not array.flags.writeable:
        address, strides = array.__array_interface__["data"][0], array.strides
        array = _on_memory(address, array.shape, strides, datatype, array)
    capsule = array.__dlpack__()
    if datatype is DataType.BF16:
        tensor = _tensor_of(capsule)
        tensor.code, tensor.bits = _BFLOAT, 16
    return capsule


def _on_memory(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    datatype: DataType,
    owner: object,
) -> AnyArray:
    interface = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": datatype.numpy.str,
        "data": (address, False),
    }
    return np.asarray(_Memory(interface, owner))


def _tensor_of(capsule: object) -> Any:
    if _is_valid(capsule, _NAMES[0]):
        return _Tensor.from_address(_pointer_of(capsule, _NAMES[0]))
    if not _is_valid(capsule, _NAMES[1]):
        raise TritonModelException("the DLPack capsule has been consumed already")
    return _Versioned.from_address(_pointer_of(capsule, _NAMES[1])).tensor


def _datatype_of(tensor: Any) -> DataType:
    bits, code = tensor.bits, tensor.code
    if tensor.lanes == 1 and (code, bits) == (_BFLOAT, 16):
        return DataType.BF16
    kind = _KINDS.get(code)
    for datatype in DataType if tensor.lanes == 1 else ():
        dtype = datatype.numpy
        if datatype is not DataType.BF16 and (dtype.kind, dtype.itemsize * 8) == (kind, bits):
            return datatype
    raise TritonModelException(
        f"DLPack data of type code {code}, {bits} bits and {tensor.lanes} lanes has no datatype"
    )
