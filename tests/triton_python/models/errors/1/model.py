"""Fails as it is told: with the error of this code, or below 0 in ways of its own."""

import numpy as np
import triton_python_backend_utils as pb_utils

NAMES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG")
NAMES += ("UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")


class TritonPythonModel:
    """Fails."""

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(each, "CODE") for each in requests]
        codes = [int(each.as_numpy()[0, 0]) for each in inputs]
        if -1 in codes:
            raise ValueError("the model gave up")
        if -2 in codes:
            raise pb_utils.TritonModelException("the model said no")
        if -3 in codes:
            return []
        return [self._answer(code) for code in codes]

    def _answer(self, code):
        if code == 100:
            return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[7]], np.int32))])
        if code == -4:
            return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[7]], np.int64))])
        error = getattr(pb_utils.TritonError, NAMES[code])
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(f"error of code {code}", error)
        )
