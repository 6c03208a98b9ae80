"""Not decoupled: odd numbers are answered through their sender, even ones by what is returned."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers in two ways."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        number = int(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0])
        if number < 0:
            return None
        tensor = pb_utils.Tensor("Y", np.array([[number * 10]], np.int32))
        response = pb_utils.InferenceResponse([tensor])
        if number % 2 == 0:
            return response
        sender = request.get_response_sender()
        threading.Thread(target=sender.send, args=(response, FINAL)).start()
        return None
