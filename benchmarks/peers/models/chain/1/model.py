"""Hands a matrix through five other models, one after the other."""

import triton_python_backend_utils as triton

LINKS = 5


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tensor = triton.get_input_tensor_by_name(request, "INPUT0")
        for number in range(1, LINKS + 1):
            response = triton.InferenceRequest(
                model_name=f"link{number}",
                requested_output_names=["OUTPUT0"],
                inputs=[triton.Tensor("INPUT0", tensor.as_numpy())],
            ).exec()
            if response.has_error():
                return triton.InferenceResponse(error=response.error())
            tensor = triton.get_output_tensor_by_name(response, "OUTPUT0")
        return triton.InferenceResponse([triton.Tensor("OUTPUT0", tensor.as_numpy())])
