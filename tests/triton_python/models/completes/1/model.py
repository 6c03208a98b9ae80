"""Says itself what goes in and out."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Gives back what it gets."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        auto_complete_model_config.set_max_batch_size(4)
        auto_complete_model_config.set_dynamic_batching()
        auto_complete_model_config.add_input(
            {"name": "X", "data_type": "TYPE_FP32", "dims": [-1], "optional": False}
        )
        auto_complete_model_config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]})
        return auto_complete_model_config

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "X") for request in requests]
        tensors = [pb_utils.Tensor("Y", each.as_numpy()) for each in inputs]
        return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]
