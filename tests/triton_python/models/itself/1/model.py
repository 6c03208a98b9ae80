"""Counts down by calling itself: two instances can, three in a row would wait for ever."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Calls itself."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        left = int(pb_utils.get_input_tensor_by_name(request, "N").as_numpy()[0])
        if left == 0:
            return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.int32))])
        response = pb_utils.InferenceRequest(
            model_name="itself",
            requested_output_names=["OUT"],
            inputs=[pb_utils.Tensor("N", np.array([left - 1], np.int32))],
        ).exec()
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        below = pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", below + 1)])
