"""What `penstock lint` says of ensembles: what does not fit between one and the models of its
steps, as far as the configurations of these say it.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check import problems
from penstock_runtime.config_check_ensemble import circle, composing_problems, steps_of
from penstock_runtime.config_problem import Problem, error, warning
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph


class OfModel(NamedTuple):
    """A problem, and the model in whose configuration it is."""

    model: str
    problem: Problem


def ensemble_findings(configs: Mapping[str, ModelConfig | None]) -> Iterator[OfModel]:
    """What is wrong between the models of one repository, by name; None for one whose
    configuration cannot be read, or leaves all to its code.
    """
    for name, config in configs.items():
        if config is None or not steps_of(config) or any(_errors(config)):
            continue
        for problem in _between(name, config, configs):
            yield OfModel(name, problem)


def _errors(config: ModelConfig) -> Iterator[Problem]:
    """What is told of the configuration alone."""
    return (problem for problem in problems(config) if problem.severity == "error")


def _between(
    name: str, config: ModelConfig, configs: Mapping[str, ModelConfig | None]
) -> Iterator[Problem]:
    field = "ensemble_scheduling.step"
    for index, step in enumerate(steps_of(config)):
        if step.model_name not in configs:
            place, text = f"{field}[{index}].model_name", f"there is no model '{step.model_name}'"
            yield warning(place, f"{text} in this repository", "add it, or correct the name")
    found = circle(name, lambda each: _parts(configs.get(each)))
    if found:
        text = f"the ensemble contains itself: {' -> '.join(found)}"
        yield error(field, text, "break the circle")
        return
    models = [configs.get(step.model_name) for step in steps_of(config)]
    yield from composing_problems(config, models)
    known = [model for model in models if model is not None]
    if len(known) == len(models):
        try:
            EnsembleGraph(config, known)
        except InvalidArgument as refused:
            yield error(field, refused.message, "read together only what one of them gives")


def _parts(config: ModelConfig | None) -> list[str]:
    return [] if config is None else [step.model_name for step in steps_of(config)]
