"""Parameters beside the outputs of a response."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Says more than its outputs."""

    def execute(self, requests):
        return [self._answer() for _ in requests]

    def _answer(self):
        outputs = [pb_utils.Tensor("Y", np.zeros(1, np.float32))]
        parameters = {"text": "a", "whole": 3, "yes": True, "part": 0.5}
        return pb_utils.InferenceResponse(outputs, parameters=parameters)
