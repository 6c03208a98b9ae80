"""N responses of N to each request, from a coroutine; the last one says that it is."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Squares, one response at a time."""

    async def execute(self, requests):
        await asyncio.gather(*(self._send(request) for request in requests))

    async def _send(self, request):
        count = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0])
        sender = request.get_response_sender()
        if count == 0:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        for left in range(count, 0, -1):
            await asyncio.sleep(0)
            tensor = pb_utils.Tensor("OUT", np.array([count], np.int32))
            last = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if left == 1 else 0
            sender.send(pb_utils.InferenceResponse([tensor]), flags=last)
