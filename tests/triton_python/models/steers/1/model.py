"""Loads and unloads the model add_sub, and says whether it is ready."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Steers another model."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        word = pb_utils.get_input_tensor_by_name(request, "WORD").as_numpy()[0]
        if word == b"load":
            pb_utils.load_model(model_name="add_sub")
        elif word == b"unload":
            pb_utils.unload_model(model_name="add_sub")
        elif word == b"nobody":
            pb_utils.load_model(model_name="nobody")
        ready = np.array([pb_utils.is_model_ready(model_name="add_sub")])
        return pb_utils.InferenceResponse([pb_utils.Tensor("READY", ready)])
