"""One of the models of a chain: gives back any matrix it gets."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self._echo(request) for request in requests]

    def _echo(self, request):
        matrix = triton.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        return triton.InferenceResponse([triton.Tensor("OUTPUT0", matrix)])
