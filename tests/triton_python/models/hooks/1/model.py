"""Is ready when it was told so last."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Says whether it is ready."""

    def initialize(self, args):
        self.ready = True

    def is_ready(self):
        if self.ready is None:
            raise RuntimeError("who knows")
        return self.ready

    def execute(self, requests):
        responses = []
        for request in requests:
            was = pb_utils.Tensor("WAS", np.array([bool(self.ready)]))
            self.ready = bool(pb_utils.get_input_tensor_by_name(request, "READY").as_numpy()[0])
            responses.append(pb_utils.InferenceResponse([was]))
        return responses
