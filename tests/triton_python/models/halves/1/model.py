"""Twice a tensor of floats and one of bfloat16, through DLPack and torch."""

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack


class TritonPythonModel:
    """Computes in torch."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        floats = pb_utils.get_input_tensor_by_name(request, "X")
        halves = pb_utils.get_input_tensor_by_name(request, "H")
        assert floats.is_cpu()
        twice = from_dlpack(floats.to_dlpack()) * 2
        thrice = torch.from_dlpack(halves) * 3
        assert thrice.dtype == torch.bfloat16
        outputs = [
            pb_utils.Tensor.from_dlpack("Y", to_dlpack(twice)),
            pb_utils.Tensor.from_dlpack("K", thrice),
        ]
        return pb_utils.InferenceResponse(outputs)
