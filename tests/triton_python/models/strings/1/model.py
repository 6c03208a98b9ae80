"""Text in capitals, and its length in bytes."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Works on strings."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        upper = [[text.decode().upper() for text in row] for row in texts]
        lengths = [[len(text) for text in row] for row in texts]
        outputs = [
            pb_utils.Tensor("UPPER", np.array(upper, dtype=np.object_)),
            pb_utils.Tensor("LENGTH", np.array(lengths, dtype=np.int32)),
        ]
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([each for each in outputs if each.name() in wanted])
