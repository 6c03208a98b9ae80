"""What it was told when it was initialised, and what it is told of a request, as JSON."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Tells what it knows."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.args = {key: value for key, value in args.items() if key != "model_config"}
        self.args["repository"] = self.args.pop("model_repository").rsplit("/", 1)[-1]
        self.config = {
            "name": config["name"],
            "colour": config["parameters"]["colour"]["string_value"],
            "input": pb_utils.get_input_config_by_name(config, "X")["data_type"],
            "output": pb_utils.get_output_config_by_name(config, "Y")["dims"],
            "nothing": pb_utils.get_output_config_by_name(config, "Z"),
            "decoupled": pb_utils.using_decoupled_model_transaction_policy(config),
        }

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        facts = {
            "args": self.args,
            "config": self.config,
            "id": request.request_id(),
            "correlation": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "parameters": json.loads(request.parameters()),
            # A set in Triton, in any order.
            "outputs": sorted(request.requested_output_names()),
            "cancelled": request.is_cancelled(),
            "trace": request.trace().get_context(),
        }
        pb_utils.Logger.log_info("facts are told")
        text = np.array([json.dumps(facts, sort_keys=True)], dtype=np.object_)
        outputs = [pb_utils.Tensor("FACTS", text), pb_utils.Tensor("Y", np.zeros(1, np.float32))]
        return pb_utils.InferenceResponse(outputs)
