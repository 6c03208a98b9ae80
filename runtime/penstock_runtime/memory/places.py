"""Where a tensor lies in memory that a client shares with the server, and the requests and
responses that have such tensors. Values; nothing here opens or reads anything.
"""

from collections.abc import Mapping
from typing import NamedTuple

from penstock_runtime.request import InferRequest, InferResponse, Parameter, RequestedOutput

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"


class Place(NamedTuple):
    """A part of a region: so many bytes from this offset on, which counts from the region's start.

    The array of a tensor that lies in a region is its place.
    """

    region: str
    byte_size: int
    offset: int = 0

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The place in the words of the wire."""
        said: dict[str, Parameter] = {REGION: self.region, BYTE_SIZE: self.byte_size}
        if self.offset:
            said[OFFSET] = self.offset
        return said


class PlacedRequest(InferRequest):
    """A request with an input or an output in a region. It says where, and has not been held
    against any registration.
    """

    __slots__ = ()

    def places(self) -> list[Place]:
        """Where its inputs and its outputs lie, those that lie in a region."""
        inputs = [tensor.array for tensor in self.inputs if type(tensor.array) is Place]
        outputs = [place for output in self.outputs if (place := place_of(output)) is not None]
        return inputs + outputs


class PlacedResponse(InferResponse):
    """A response with outputs that have been written into regions; their arrays say where, and how
    many bytes.
    """

    __slots__ = ()


def place_of(output: RequestedOutput) -> Place | None:
    """Where the caller wants an output written; None: into the response, as usual."""
    said = output.parameters
    if REGION not in said:
        return None
    return Place(str(said[REGION]), int(said[BYTE_SIZE]), int(said.get(OFFSET, 0)))
