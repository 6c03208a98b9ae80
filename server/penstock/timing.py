"""What a response says of its own making when the request asks for it."""

import time

from penstock_runtime.request import InferRequest, InferResponse, Parameter


def with_timing(request: InferRequest, response: InferResponse) -> InferResponse:
    """The response with its times (microseconds), its batch and its instance as parameters."""
    parameters: dict[str, Parameter] = dict(response.parameters)
    parameters["penstock_total_us"] = (time.monotonic_ns() - request.received_ns) // 1000
    timing = response.timing
    if timing is not None:
        parameters["penstock_queue_us"] = timing.queue_ns // 1000
        parameters["penstock_compute_input_us"] = timing.compute_input_ns // 1000
        parameters["penstock_compute_infer_us"] = timing.compute_infer_ns // 1000
        parameters["penstock_compute_output_us"] = timing.compute_output_ns // 1000
        parameters["penstock_batch_size"] = timing.batch_size
        parameters["penstock_instance"] = timing.instance
        if timing.cache_hit:
            parameters["penstock_cache_hit"] = True
    return response._replace(parameters=parameters)
