"""Metrics of its own: how often it was asked, the last number, and all of them by size."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Counts."""

    def initialize(self, args):
        family = pb_utils.MetricFamily
        self.families = [
            family(name="asked_total", description="Requests", kind=family.COUNTER),
            family(name="last_number", description="The last number", kind=family.GAUGE),
            family(name="numbers", description="Numbers", kind=family.HISTOGRAM),
        ]
        asked, last, numbers = self.families
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self.asked = asked.Metric(labels=labels)
        self.last = last.Metric(labels=labels)
        self.numbers = numbers.Metric(labels=labels, buckets=[1.0, 10.0])

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        number = float(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0])
        self.asked.increment(1)
        self.last.set(number)
        self.numbers.observe(number)
        told = np.array([self.asked.value(), self.last.value()], np.float64)
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", told)])
