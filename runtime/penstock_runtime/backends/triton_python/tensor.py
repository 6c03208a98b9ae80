"""A tensor as models see and make them: a name and an array, wherever it lives. It is copied only
where a model could else write into what others have too.
"""

from importlib import import_module
from typing import Any

import numpy as np

from penstock_runtime.backends.triton_python import dlpack
from penstock_runtime.backends.triton_python.datatypes import NUMBERS
from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.lending import of_message
from penstock_runtime.backends.triton_python.strings import as_bytes
from penstock_runtime.datatype import BY_TORCH_NAME, DataType, from_numpy
from penstock_runtime.errors import InvalidArgument


class Tensor:
    """Made of a numpy array, or with `from_dlpack` of anything that speaks DLPack.

    The array of a request is read-only: it lies in the message that came, or belongs to the model
    that made it. A model that writes into it gets copies, see `lending`.
    """

    __slots__ = ("_alone", "_array", "_copies", "_datatype", "_exported", "_name", "_shared")

    def __init__(self, name: str, numpy_array: Any) -> None:
        array = np.asarray(numpy_array)
        try:
            datatype = from_numpy(array.dtype)
        except InvalidArgument as error:
            raise TritonModelException(f"tensor '{name}': {error.message}") from None
        if datatype is DataType.BF16:
            array = array.view(np.uint16)
        self._set(name, datatype, array)

    def _set(
        self,
        name: str,
        datatype: DataType,
        array: Any,
        shared: bool = False,
        copies: bool = False,
        alone: bool = False,
    ) -> None:
        self._name = name
        self._datatype = datatype
        self._array = array
        self._shared = shared
        self._copies = copies
        self._alone = alone
        self._exported = False

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """A tensor on the memory of a DLPack capsule, or of an object that gives one (torch, CuPy,
        numpy, another Tensor).
        """
        made = Tensor.__new__(Tensor)
        if isinstance(tensor, Tensor):
            # Not alone: what is exported of this would not be known of the other.
            made._set(name, tensor._datatype, tensor._array, tensor._shared, tensor._copies)
            return made
        device, datatype, array = _imported(tensor)
        if array is None:
            array = tensor if hasattr(tensor, "__dlpack__") else _device_array(tensor, device)
        made._set(name, datatype, array)
        return made

    def name(self) -> str:
        """The name."""
        return self._name

    def shape(self) -> list[int]:
        """The dimensions."""
        return list(self._array.shape)

    def triton_dtype(self) -> int:
        """The datatype's number; see `triton_to_numpy_type`."""
        return NUMBERS[self._datatype]

    def is_cpu(self) -> bool:
        """Whether it lies in host memory."""
        return isinstance(self._array, np.ndarray)

    def as_numpy(self) -> Any:
        """The array. TritonModelException if it lies on a device, or is bfloat16."""
        if not self.is_cpu():
            raise TritonModelException(
                f"tensor '{self._name}' lies on a device and cannot be a numpy array: use"
                " to_dlpack()"
            )
        if self._datatype is DataType.BF16:
            raise TritonModelException(
                f"tensor '{self._name}' is BF16, which numpy has not: use to_dlpack()"
            )
        return self._visible()

    def to_dlpack(self) -> Any:
        """A DLPack capsule on the tensor's memory; on a copy of it if others have that too, since
        whoever reads a capsule may write.
        """
        return self.__dlpack__()

    def __dlpack__(self, *, stream: Any = None, **_wishes: Any) -> Any:
        if self._datatype is DataType.BYTES:
            raise TritonModelException(f"tensor '{self._name}' holds strings, DLPack only numbers")
        if self.is_cpu():
            return dlpack.export(self._writable(), self._datatype)
        return self._array.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        if self.is_cpu():
            return (dlpack.CPU, 0)
        kind, number = self._array.__dlpack_device__()
        return (int(kind), int(number))

    def _visible(self) -> Any:
        array = self._array
        if self._copies:
            self._array, self._copies, self._shared = array.copy(), False, False
        elif self._shared and array.flags.writeable:
            self._array = array = array.view()
            array.flags.writeable = False
        return self._array

    def _writable(self) -> Any:
        """The array to be given to what does not ask whether it may write."""
        array = self._visible()
        if self._shared and not (self._alone and of_message(array)):
            self._array, self._shared = array.copy(), False
        self._exported = self._shared
        return self._array

    def __repr__(self) -> str:
        shape = ",".join(map(str, self._array.shape))
        return f"Tensor({self._name!r}, {self._datatype.value}[{shape}])"


def foreign(
    name: str, datatype: DataType, array: Any, *, copies: bool = False, alone: bool = False
) -> Tensor:
    """A tensor on an array that belongs to somebody else; with `copies` it is copied when it is
    looked at. `alone`: nobody else has the message that it may lie in.
    """
    made = Tensor.__new__(Tensor)
    made._set(name, datatype, array, True, copies and isinstance(array, np.ndarray), alone)
    return made


def exported(tensor: Tensor) -> bool:
    """Whether the memory of somebody else was given away, and may have changed."""
    return tensor._exported


def array_of(tensor: Tensor) -> Any:
    """The array as the runtime wants it: bfloat16 in halves, strings as bytes."""
    if tensor._datatype is DataType.BYTES:
        return as_bytes(tensor._array)
    return tensor._array


def datatype_of(tensor: Tensor) -> DataType:
    """The datatype."""
    return tensor._datatype


def on_device(array: Any) -> tuple[DataType, Any]:
    """Datatype and array of a torch or CuPy array that stays where it is."""
    known = BY_TORCH_NAME.get(str(array.dtype).removeprefix("torch."))
    return (known if known is not None else from_numpy(np.dtype(array.dtype))), array


def _imported(tensor: Any) -> dlpack.Found:
    if dlpack.is_capsule(tensor):
        return dlpack.read(tensor)
    if not (hasattr(tensor, "__dlpack__") and hasattr(tensor, "__dlpack_device__")):
        raise TritonModelException(
            f"a {type(tensor).__name__} cannot be a tensor: expected a DLPack capsule, or an object"
            " with __dlpack__ and __dlpack_device__"
        )
    kind, number = tensor.__dlpack_device__()
    if int(kind) not in (dlpack.CPU, dlpack.CUDA_HOST):
        datatype, _ = on_device(tensor)
        return dlpack.Found((int(kind), int(number)), datatype, None)
    return dlpack.read(tensor.__dlpack__())


def _device_array(capsule: Any, device: tuple[int, int]) -> Any:
    """The array of a capsule of device memory, by whichever library is there."""
    for library in ("torch.utils.dlpack", "cupy"):
        try:
            return import_module(library).from_dlpack(capsule)
        except ImportError:
            continue
    raise TritonModelException(
        f"a tensor on device {device[1]} needs torch or CuPy, neither is installed"
    )
