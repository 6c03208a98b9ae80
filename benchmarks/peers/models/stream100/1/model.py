"""A hundred responses to each request, in Triton."""

import triton_python_backend_utils as triton

COUNT = 100


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self._answer(request)

    def _answer(self, request):
        matrix = triton.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        sender = request.get_response_sender()
        for left in range(COUNT, 0, -1):
            response = triton.InferenceResponse([triton.Tensor("OUTPUT0", matrix)])
            last = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if left == 1 else 0
            sender.send(response, flags=last)
