"""Checks of an ensemble against the models of its steps: names, datatypes, shapes, batches, and
that no ensemble contains itself. What its own configuration shows is checked without them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_problem import (
    SHOWN_ITEMS,
    Problems,
    error,
    shape_text,
    unknown,
    warning,
)
from penstock_runtime.config_scheduling import EnsembleStep
from penstock_runtime.datatype import DataType

FIELD = "ensemble_scheduling"


@dataclass(frozen=True, slots=True)
class Declared:
    """What one side says of a tensor: who, and the tensor with its batch dimension as -1."""

    by: str
    data_type: DataType
    dims: tuple[int, ...]
    optional: bool = False


def steps_of(config: ModelConfig) -> tuple[EnsembleStep, ...]:
    """The steps of an ensemble; none of another model."""
    ensemble = config.ensemble_scheduling
    return ensemble.step if ensemble is not None else ()


def step_names(config: ModelConfig) -> list[tuple[str, ...]]:
    """By step, the names under which its model may serve, of which the first that does counts: in
    the namespace that the step names, or else the ensemble's own, and without one.
    """
    own = config.name.rpartition("::")[0]
    found: list[tuple[str, ...]] = []
    for step in steps_of(config):
        space = step.model_namespace or own
        inside = (f"{space}::{step.model_name}",) if space else ()
        found.append((*inside, step.model_name))
    return found


def part_names(config: ModelConfig) -> tuple[str, ...]:
    """All names under which models of an ensemble's steps may serve, each once."""
    return tuple(dict.fromkeys(name for names in step_names(config) for name in names))


def composing_problems(config: ModelConfig, models: Sequence[ModelConfig | None]) -> Problems:
    """What does not fit between an ensemble and the models of its steps, in the order of these;
    None for one that is not known.
    """
    declared = declarations(config, models)
    for index, model in enumerate(models):
        if model is not None and (model.input or model.output):
            yield from step_problems(config, index, model, declared)
    made = {
        name: _declared(f"step {index}", model, model.find_output(own))
        for index, (step, model) in enumerate(zip(steps_of(config), models, strict=True))
        for own, name in step.output_map.items()
        if model is not None
    }
    for index, output in enumerate(config.output):
        maker = made.get(output.name)
        if maker is not None:
            mine = _declared("the ensemble", config, output)
            yield from _mismatch(f"output[{index}]", output.name, maker, mine)
    decoupled = [i for i, model in enumerate(models) if model is not None and model.decoupled]
    if decoupled and not config.decoupled:
        message = f"is not decoupled, but step {decoupled[0]} is: the ensemble will be served so"
        fix = "write model_transaction_policy { decoupled: true }"
        yield warning("model_transaction_policy", message, fix)


def declarations(
    config: ModelConfig, models: Sequence[ModelConfig | None]
) -> Mapping[str, Declared]:
    """What whoever makes each tensor says of it: the ensemble of its inputs, the models of what
    they give.
    """
    found = {i.name: _declared("the ensemble", config, i) for i in config.input}
    for index, (step, model) in enumerate(zip(steps_of(config), models, strict=True)):
        for own, name in step.output_map.items():
            output = model.find_output(own) if model is not None else None
            found[name] = _declared(f"step {index} '{step.model_name}'", model, output)
    return {name: one for name, one in found.items() if one is not None}


def step_problems(
    config: ModelConfig, index: int, model: ModelConfig, declared: Mapping[str, Declared]
) -> Problems:
    """What does not fit between one step and its model, as others declare the step's tensors."""
    step, field = steps_of(config)[index], f"{FIELD}.step[{index}]"
    by = f"step {index} '{step.model_name}'"
    inputs, outputs = [i.name for i in model.input], [o.name for o in model.output]
    for own, name in step.input_map.items():
        place = f'{field}.input_map["{own}"]'
        yield from unknown(place, own, inputs, "input")
        yield from _input_problems(place, name, declared.get(name), model.find_input(own), by)
        mine = _declared(by, model, model.find_input(own))
        yield from _mismatch(place, name, declared.get(name), mine)
    for own, name in step.output_map.items():
        place = f'{field}.output_map["{own}"]'
        yield from unknown(place, own, outputs, "output")
        mine = _declared(by, model, model.find_output(own))
        yield from _mismatch(place, name, declared.get(name), mine)
    missing = [i.name for i in model.input if not i.optional and i.name not in step.input_map]
    if missing:
        message = f"misses the inputs {missing[:SHOWN_ITEMS]} of model '{step.model_name}'"
        yield error(f"{field}.input_map", message, "map a tensor to each")
    yield from _batch_problems(config, step, model)


def _batch_problems(config: ModelConfig, step: EnsembleStep, model: ModelConfig) -> Problems:
    if 0 < model.max_batch_size < config.max_batch_size:
        message = (
            f"ensemble '{config.name}' allows maximum batch size {config.max_batch_size}, but it "
            f"contains model '{step.model_name}' which only allows maximum batch size to be "
            f"{model.max_batch_size}"
        )
        yield error("max_batch_size", message, f"lower it to {model.max_batch_size}")


def _input_problems(
    field: str, name: str, source: Declared | None, own: ModelInput | None, by: str
) -> Problems:
    if source is not None and own is not None and source.optional and not own.optional:
        message = f"the tensor '{name}' is optional, but {by} always needs it"
        yield error(field, message, "make both optional, or neither")


def _mismatch(field: str, name: str, one: Declared | None, other: Declared | None) -> Problems:
    if one is None or other is None:
        return
    if one.data_type is not other.data_type:
        message = (
            f"inconsistent data type: the tensor '{name}' is {one.data_type.config_name} for "
            f"{one.by} and {other.data_type.config_name} for {other.by}"
        )
        yield error(field, message, "connect tensors of one data type")
    if not _one_shape(one.dims, other.dims):
        message = (
            f"inconsistent shape: the tensor '{name}' is {shape_text(one.dims)} for {one.by} and "
            f"{shape_text(other.dims)} for {other.by}, with the batch dimension where there is one"
        )
        yield error(field, message, "connect tensors of one shape")


def _one_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether there is a shape that both allow; what a -1 stands for shows when it is served."""
    if len(one) != len(other):
        return False
    return all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))


def _declared(
    by: str, config: ModelConfig | None, tensor: ModelInput | ModelOutput | None
) -> Declared | None:
    if config is None or tensor is None:
        return None
    batch = (-1,) if config.max_batch_size > 0 and not tensor.is_shape_tensor else ()
    optional = isinstance(tensor, ModelInput) and tensor.optional
    return Declared(by, tensor.data_type, (*batch, *tensor.dims), optional)


def circle(name: str, steps: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    """How an ensemble contains itself, from its name to its name; empty if it does not.

    `steps` gives the models that one is made of, none for one that is no ensemble.
    """
    seen: dict[str, str] = {}
    left = [(step, name) for step in steps(name)]
    while left:
        found, inside = left.pop()
        if found == name:
            way = [name, inside]
            while way[-1] != name:
                way.append(seen[way[-1]])
            return tuple(reversed(way))
        if found not in seen:
            seen[found] = inside
            left += [(step, found) for step in steps(found)]
    return ()
