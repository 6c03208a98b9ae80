"""(a + b) * (a - b) by calls of add_sub, one after the other or together, in loops of its own."""

import asyncio

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Calls another model."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        mode = pb_utils.get_input_tensor_by_name(request, "MODE").as_numpy()[0, 0].decode()
        if mode == "async":
            total, rest = asyncio.run(self._both(request))
        else:
            total, rest = (self._call(request, mode, name).exec() for name in self._names())
        for response in (total, rest):
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
        left = pb_utils.get_output_tensor_by_name(total, "OUTPUT0").as_numpy()
        right = pb_utils.get_output_tensor_by_name(rest, "OUTPUT1").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", left * right)])

    def _names(self):
        return ("OUTPUT0", "OUTPUT1")

    def _call(self, request, mode, name):
        inputs = [pb_utils.get_input_tensor_by_name(request, each) for each in ("INPUT0", "INPUT1")]
        return pb_utils.InferenceRequest(
            model_name="nobody" if mode == "unknown" else "add_sub",
            requested_output_names=[name],
            inputs=inputs if mode != "short" else inputs[:1],
        )

    async def _both(self, request):
        calls = [self._call(request, "async", name).async_exec() for name in self._names()]
        return await asyncio.gather(*calls)
