"""The sum and the difference of two tensors, request by request."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Adds and subtracts."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
        outputs = [
            pb_utils.Tensor("OUTPUT0", left + right),
            pb_utils.Tensor("OUTPUT1", left - right),
        ]
        return pb_utils.InferenceResponse(output_tensors=outputs)
