"""Requests that use memory shared with the client, on their way from the wire to the core: inputs
are read out of their regions, outputs go through a `RegionStream`.

An input is copied when its request comes in, so that what was checked is what is executed, whatever
the client writes meanwhile. Only an input in device memory stays where it is, for a model that
executes there.
"""

from collections.abc import Mapping

from penstock.codec.decode import check_bools, decode_parts, decode_request
from penstock.codec.prescan import Parts
from penstock.codec.wire import Buffer
from penstock.limits import CopyBudget, CopyShare
from penstock.region_stream import RegionStream
from penstock_runtime.core import InferenceCore
from penstock_runtime.datatype import DataType
from penstock_runtime.memory.places import Place, PlacedRequest, place_of
from penstock_runtime.memory.shared import RegionTable, RegionUse
from penstock_runtime.model import Model
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor

# BYTES are cut out on the host, BOOL is looked at there, and CuPy has no BF16.
_HOST_ONLY = (DataType.BYTES, DataType.BOOL, DataType.BF16)


class RegionPlacing:
    """Decodes and queues the requests of a server that allows clients to share memory. Thread-safe:
    large ones come from a thread.
    """

    def __init__(self, core: InferenceCore, regions: RegionTable, budget: CopyBudget) -> None:
        self._core = core
        self._regions = regions
        self._budget = budget

    def decode(
        self,
        data: Buffer,
        now_ns: int,
        deadline_ns: int | None,
        headers: Mapping[str, str],
        forwarded: Mapping[str, str],
    ) -> InferRequest:
        """As `decode_request`; a place that is in no region is refused, as any source of data that
        is not there.
        """
        request = decode_request(data, now_ns, deadline_ns, headers, forwarded, places=True)
        return self._checked(request)

    def decode_parts(
        self,
        parts: Parts,
        now_ns: int,
        deadline_ns: int | None,
        headers: Mapping[str, str],
        forwarded: Mapping[str, str],
    ) -> InferRequest:
        """As `decode` for a request that has been taken apart."""
        request = decode_parts(
            parts, now_ns, deadline_ns, headers, forwarded, data=None, places=True
        )
        return self._checked(request)

    def _checked(self, request: InferRequest) -> InferRequest:
        if type(request) is PlacedRequest:
            for place in request.places():
                self._regions.check(place)
        return request

    def infer(
        self, request: InferRequest, stream: ResponseStream, model: Model | None = None
    ) -> None:
        """As `InferenceCore.infer`. The regions of the request stay open until its last answer."""
        if type(request) is not PlacedRequest:
            self._core.infer(request, stream, model)
            return
        share = CopyShare(self._budget)
        answering = RegionStream(stream, self._outputs(request), share.give)
        try:
            device = model.input_device if model is not None else None
            inputs = tuple(
                self._input(tensor, request.model_name, device, share)
                if type(tensor.array) is Place
                else tensor
                for tensor in request.inputs
            )
            answering.follow()
            self._core.infer(InferRequest(*request)._replace(inputs=inputs), answering, model)
        except BaseException:
            answering.settle()
            raise

    def _outputs(self, request: InferRequest) -> Mapping[str, RegionUse]:
        """The places of outputs by name, in use from now on."""
        uses: dict[str, RegionUse] = {}
        try:
            for output in request.outputs:
                place = place_of(output)
                # One that is asked for twice is refused later.
                if place is not None and output.name not in uses:
                    uses[output.name] = self._regions.use(place)
        except BaseException:
            for use in uses.values():
                use.close()
            raise
        return uses

    def _input(self, tensor: Tensor, model: str, device: int | None, share: CopyShare) -> Tensor:
        """The tensor with its data: a copy of the bytes in its place, or what is on the device
        already.
        """
        use = self._regions.use(tensor.array)
        if device is not None and use.device == device and _fills(tensor) and _is_aligned(tensor):
            # The array keeps the region open for as long as anyone has it.
            return tensor._replace(array=use.array(tensor.datatype, tensor.shape))
        try:
            if device is not None and use.device is None and _fills(tensor):
                uploaded = use.upload(tensor.datatype, tensor.shape, device)
                if uploaded is not None:
                    return tensor._replace(array=uploaded)
            share.take(use.place.byte_size)
            raw = use.read()
        finally:
            use.close()
        if tensor.datatype is DataType.BOOL:
            check_bools(tensor.name, model, raw)
        return tensor._replace(array=raw)


def _fills(tensor: Tensor) -> bool:
    """Whether the place holds just the numbers of the tensor's shape, in a form that devices have.

    Anything else is read and refused as any other input is.
    """
    if tensor.datatype in _HOST_ONLY or any(dim < 1 for dim in tensor.shape):
        return False
    return bool(tensor.elements * tensor.datatype.size == tensor.array.byte_size)


def _is_aligned(tensor: Tensor) -> bool:
    """Whether its numbers begin where devices may read numbers of that size: elsewhere a kernel
    fails, and with it all that the process has on that GPU. What drivers map begins so.
    """
    return bool(tensor.array.offset % tensor.datatype.size == 0)
