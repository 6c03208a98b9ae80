"""How loaded the server is, told with an answer to whoever asks for it: Open Request Cost
Aggregation, in the trailing metadata, as Triton and Envoy write it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from penstock.interceptors import Gate
from penstock.transport.base import Call
from penstock_runtime.observability.metrics import Family, number
from penstock_runtime.observability.process_metrics import MachineMetrics
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferResponse
from penstock_runtime.scheduling.base import QueueStats

ASKED, REPORT = "endpoint-load-metrics-format", "endpoint-load-metrics"
# What takes a look at every model or at /proc is looked at this often at most.
LOOK_NS = 1_000_000_000
_CPU, _USED, _TOTAL = "nv_cpu_utilization", "nv_cpu_memory_used_bytes", "nv_cpu_memory_total_bytes"


class LoadedModel(Protocol):
    """A version, as far as its load goes."""

    @property
    def statistics(self) -> ModelStatistics:
        """What it did."""

    def queue_stats(self) -> QueueStats:
        """What waits for it."""


class Report(NamedTuple):
    """What is told; the names are those of an OrcaLoadReport. Utilisations are from 0 to 1."""

    figures: Mapping[str, float]
    named_metrics: Mapping[str, float]

    def text(self) -> str:
        """As `name=value` pairs."""
        pairs = [f"{name}={_short(value)}" for name, value in self.figures.items()]
        named = self.named_metrics.items()
        pairs += [f"named_metrics.{name}={_short(value)}" for name, value in named]
        return "TEXT " + ", ".join(pairs)

    def json(self) -> str:
        """As an object."""
        return "JSON " + json.dumps({**self.figures, "named_metrics": dict(self.named_metrics)})


class LoadReporter:
    """Tells how loaded one server is. Lives on the event loop."""

    def __init__(
        self,
        models: Callable[[], Sequence[LoadedModel]],
        gate: Gate,
        machine: Callable[[], Sequence[Family]] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._models = models
        self._gate = gate
        # Made here: utilisation is that since the look before.
        self._machine = machine if machine is not None else MachineMetrics().families
        self._clock = clock
        self._looked_ns = clock()
        self._answered = self._failed = 0
        self._figures: dict[str, float] | None = None

    def attach(self, call: Call, response: InferResponse) -> None:
        """Put the report into the call's trailing metadata, if its caller asks for a form of it
        that there is. To be called only where ASKED is in the metadata.
        """
        wanted = call.metadata[ASKED].strip().lower()
        if wanted not in ("text", "json"):
            return
        report = self.report(response.model_name, response.model_version)
        told = report.json() if wanted == "json" else report.text()
        call.set_trailing_metadata(((REPORT, told),))

    def report(self, model: str, version: str) -> Report:
        """How loaded the server is now, and this model in it."""
        models = self._models()
        waiting = sum(
            found.queue_stats().requests
            for found in models
            if found.statistics.model == model and str(found.statistics.version) == version
        )
        named = {"queue_depth": waiting, "inflight_calls": self._gate.inflight}
        return Report(self._look(models), named)

    def _look(self, models: Sequence[LoadedModel]) -> Mapping[str, float]:
        now = self._clock()
        spent_ns = now - self._looked_ns
        if self._figures is not None and spent_ns < LOOK_NS:
            return self._figures
        totals = [model.statistics.totals() for model in models]
        answered = sum(good + bad for good, bad in totals)
        failed = sum(bad for _, bad in totals)
        seconds = max(spent_ns, 1) / 1e9
        # Counts begin anew when a model is loaded again.
        figures = {
            **self._of_machine(),
            "rps_fractional": max(answered - self._answered, 0) / seconds,
            "eps": max(failed - self._failed, 0) / seconds,
        }
        self._looked_ns, self._answered, self._failed = now, answered, failed
        self._figures = figures
        return figures

    def _of_machine(self) -> dict[str, float]:
        found = {family.name: family.samples[0].value for family in self._machine()}
        said = {}
        if _CPU in found:
            said["cpu_utilization"] = found[_CPU]
        if found.get(_TOTAL):
            said["mem_utilization"] = found.get(_USED, 0.0) / found[_TOTAL]
        return said


def _short(value: float) -> str:
    return number(round(value, 6))
