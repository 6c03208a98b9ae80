"""A generate response: a flat object with the outputs by their names, a single value as itself."""

from typing import Any

from penstock.codec.parameters import FINAL_RESPONSE
from penstock.rest.documents import write_document
from penstock.rest.infer_response import plain
from penstock.rest.tensor_values import write_values
from penstock_runtime.request import InferResponse
from penstock_runtime.tensor import Tensor

_BEFORE, _AFTER = b"data: ", b"\n\n"


def write_generated(response: InferResponse, *, tell_final: bool = False) -> bytes:
    """The response as a document; whether it is the last one only if that is asked for."""
    document: dict[str, Any] = {"id": response.id} if response.id else {}
    document |= {"model_name": response.model_name, "model_version": response.model_version}
    document |= plain(response.parameters)
    document |= {output.name: _value(output) for output in response.outputs}
    if tell_final:
        document[FINAL_RESPONSE] = response.final
    return write_document(document)


def event(document: bytes) -> bytes:
    """The document as an event; JSON has no line ends that would cut it."""
    return b"%b%b%b" % (_BEFORE, document, _AFTER)


def _value(output: Tensor) -> Any:
    values = write_values(output)
    return values[0] if len(values) == 1 else values
