"""Sums up what the decoupled model repeat answers; or stops after the first response."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Calls a decoupled model."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        mode = pb_utils.get_input_tensor_by_name(request, "MODE").as_numpy()[0].decode()
        call = pb_utils.InferenceRequest(
            model_name="repeat",
            requested_output_names=["OUT"],
            inputs=[pb_utils.get_input_tensor_by_name(request, "IN")],
        )
        if mode == "wrong":
            return pb_utils.InferenceResponse(error=call.exec().error())
        if mode == "async":
            values = asyncio.run(self._collect(call))
        else:
            values = self._values(call.exec(decoupled=True), mode)
        total = np.array([sum(values)], np.int32)
        count = np.array([len(values)], np.int32)
        outputs = [pb_utils.Tensor("SUM", total), pb_utils.Tensor("COUNT", count)]
        return pb_utils.InferenceResponse(outputs)

    async def _collect(self, call):
        return self._values(await call.async_exec(decoupled=True), "async")

    def _values(self, responses, mode):
        values = []
        for response in responses:
            if response.has_error():
                raise pb_utils.TritonModelException(response.error().message())
            if response.output_tensors():
                values.append(int(response.output_tensors()[0].as_numpy()[0]))
            if mode == "first":
                responses.cancel()
                break
        return values
