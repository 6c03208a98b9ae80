"""One answer of a model, as its caller wants to hold it."""

from collections.abc import Iterator, Mapping

from penstock_runtime.datatype import AnyArray, DataType, bf16_to_float32
from penstock_runtime.memory.places import Place
from penstock_runtime.request import InferResponse, Parameters, Timing
from penstock_runtime.tensor import Tensor

_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


class InferResult(Mapping[str, AnyArray]):
    """The outputs by name, as numpy arrays, in the order of the answer.

    An array is a read-only view of the received bytes; an output that lies in shared memory has
    none here, and `tensor(name).array` is its Place. BYTES elements are `bytes` in an object
    array (`texts` decodes them); BF16 is widened to float32, exactly.
    """

    __slots__ = ("_response", "_tensors")

    def __init__(self, response: InferResponse) -> None:
        self._response = response
        self._tensors = {tensor.name: tensor for tensor in response.outputs}

    def __getitem__(self, name: str) -> AnyArray:
        tensor = self._tensors[name]
        if type(tensor.array) is Place:
            raise KeyError(f"output '{name}' is in shared memory region '{tensor.array.region}'")
        array = tensor.numpy()
        return bf16_to_float32(array) if tensor.datatype is DataType.BF16 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def texts(self, name: str) -> list[str]:
        """The elements of a BYTES output, row-major, decoded as UTF-8."""
        return [item.decode() for item in self[name].reshape(-1).tolist()]

    def tensor(self, name: str) -> Tensor:
        """The output with its datatype and shape, as it came over the wire."""
        return self._tensors[name]

    @property
    def id(self) -> str:
        """The id that the request bore."""
        return self._response.id

    @property
    def model_name(self) -> str:
        """The model that answered."""
        return self._response.model_name

    @property
    def model_version(self) -> str:
        """The version that answered."""
        return self._response.model_version

    @property
    def parameters(self) -> Parameters:
        """What the server and the model said beside the outputs."""
        return self._response.parameters

    @property
    def timing(self) -> Timing | None:
        """Where the time went in the server; for requests with the parameter penstock_timing."""
        told = self._response.parameters
        if "penstock_total_us" not in told:
            return None
        queue, gather, infer, output = (
            int(told.get(f"penstock_{phase}_us", 0)) * 1000 for phase in _PHASES
        )
        return Timing(
            queue,
            gather,
            infer,
            output,
            int(told.get("penstock_batch_size", 0)),
            str(told.get("penstock_instance", "")),
            bool(told.get("penstock_cache_hit", False)),
        )

    def __repr__(self) -> str:
        outputs = ", ".join(map(repr, self._tensors.values()))
        return f"InferResult({self.model_name}/{self.model_version}: {outputs})"
