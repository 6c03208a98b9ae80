"""What a stream says of one request beside its responses: an error in-band, a line in the log."""

import time

from penstock.codec.encode import encode_stream_error
from penstock.observer import trace_id_of
from penstock.rpc import INFERENCE_SERVICE
from penstock.status import reason_of, text_of
from penstock.stream_request import StreamRequest
from penstock.transport.base import Call
from penstock_runtime.errors import PenstockError
from penstock_runtime.observability.access_log import AccessEntry, AccessLog, peer_host
from penstock_runtime.request import InferRequest, InferResponse, Parameter, Timing

STREAM_PATH = f"/{INFERENCE_SERVICE}/ModelStreamInfer"


def error_message(error: PenstockError, request: InferRequest | None) -> bytes:
    """The message that tells the caller which request failed, and why.

    Status, reason and retry hint, which a unary call has beside its text, are parameters here.
    """
    parameters: dict[str, Parameter] = {"penstock_status": error.status.value}
    reason = reason_of(error)
    if reason:
        parameters["penstock_reason"] = reason
    if error.retry_after_ns is not None:
        parameters["penstock_retry_after_ms"] = error.retry_after_ns // 1_000_000
    if request is None:
        return encode_stream_error(text_of(error), parameters=parameters)
    return encode_stream_error(
        text_of(error, request.id),
        request.model_name,
        request.model_version,
        request.id,
        parameters,
    )


def final_message_of(request: InferRequest) -> InferResponse:
    """The empty response that only says that a decoupled request is over."""
    return InferResponse(request.model_name, request.model_version, request.id, empty=True)


def log_request(access: AccessLog, request: StreamRequest, code: str, call: Call) -> None:
    """Log one request of a stream as if it were a call."""
    if not access.wants(code == "OK"):
        return
    asked, last = request.request, request.response
    timing = (last.timing if last is not None else None) or Timing()
    access.record(
        AccessEntry(
            wall_ns=time.time_ns(),
            rpc=STREAM_PATH,
            status=code,
            model=asked.model_name if asked is not None else "",
            version=last.model_version if last is not None else "",
            id=asked.id if asked is not None else "",
            trace_id=trace_id_of(asked, call),
            peer=peer_host(call.peer),
            request_bytes=request.size,
            response_bytes=request.sent_bytes,
            responses=request.responses,
            batch_size=timing.batch_size,
            queue_ns=timing.queue_ns,
            compute_ns=timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns,
            total_ns=time.monotonic_ns() - request.received_ns,
        )
    )
