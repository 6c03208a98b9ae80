"""Checks of what spans requests or models: sequences with their controls and states, ensembles."""

from collections import Counter
from collections.abc import Iterable, Sequence

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_problem import (
    Problems,
    bad_batch_sizes,
    bad_dims,
    below,
    error,
    fits,
    not_a_file_name,
    not_one_of,
    outside,
    repeated,
    shape_text,
    warning,
)
from penstock_runtime.config_scheduling import (
    EnsembleStep,
    SequenceBatching,
    SequenceControl,
    SequenceControlInput,
    SequenceInitialState,
    SequenceState,
)
from penstock_runtime.config_schema import ENUMS
from penstock_runtime.datatype import DataType

# A free parameter, since Triton's messages have no field for it: how many sequences may wait.
BACKLOG_PARAMETER = "max_backlog_sequences"
MOST_BACKLOG = 1 << 20

_CORRID = "CONTROL_SEQUENCE_CORRID"
_ID_TYPES = (DataType.UINT64, DataType.INT64, DataType.UINT32, DataType.INT32, DataType.BYTES)


def sequence_problems(config: ModelConfig) -> Problems:
    """The block sequence_batching."""
    sequence = config.sequence_batching
    if sequence is None:
        return
    field = "sequence_batching"
    yield from below(
        f"{field}.max_sequence_idle_microseconds", sequence.max_sequence_idle_microseconds, 0
    )
    yield from _strategy(field, sequence, config.max_batch_size)
    for index, control_input in enumerate(sequence.control_input):
        yield from _control_input(f"{field}.control_input[{index}]", control_input)
    yield from _tensors(field, sequence, config)
    kinds = [control.kind for one in sequence.control_input for control in one.control]
    yield from repeated(f"{field}.control_input", kinds)
    for index, state in enumerate(sequence.state):
        yield from _state(f"{field}.state[{index}]", state)
    yield from repeated(f"{field}.state", (state.output_name for state in sequence.state))


def _tensors(field: str, sequence: SequenceBatching, config: ModelConfig) -> Problems:
    """What a sequence adds to the inputs must not be there already."""
    own = [control_input.name for control_input in sequence.control_input]
    own += [state.input_name for state in sequence.state]
    yield from repeated(field, own)
    for name in own:
        if config.find_input(name) is not None:
            message = f"'{name}' is an input that clients send"
            yield error(field, message, "remove it from the model's inputs, or rename it")
    if config.response_cache is not None and config.response_cache.enable:
        message = "cannot be enabled for a model with sequences"
        yield error("response_cache", message, "disable the cache")
    backlog = config.parameter(BACKLOG_PARAMETER, "0")
    if not (backlog.isascii() and backlog.isdecimal() and int(backlog) <= MOST_BACKLOG):
        message = f"must be a number from 0 to {MOST_BACKLOG}, got {backlog[:32]!r}"
        yield error(f'parameters["{BACKLOG_PARAMETER}"]', message, "say how many may wait")


def _strategy(field: str, sequence: SequenceBatching, max_batch_size: int) -> Problems:
    direct, oldest = sequence.direct, sequence.oldest
    if direct is not None and oldest is not None:
        yield error(field, "has both direct and oldest", "keep one strategy")
    if direct is not None:
        place = f"{field}.direct"
        delay = direct.max_queue_delay_microseconds
        yield from below(f"{place}.max_queue_delay_microseconds", delay, 0)
        share = direct.minimum_slot_utilization
        yield from outside(f"{place}.minimum_slot_utilization", share, 0.0, 1.0)
    if oldest is not None:
        place = f"{field}.oldest"
        delay, sizes = oldest.max_queue_delay_microseconds, oldest.preferred_batch_size
        yield from below(f"{place}.max_queue_delay_microseconds", delay, 0)
        yield from below(f"{place}.max_candidate_sequences", oldest.max_candidate_sequences, 1)
        yield from bad_batch_sizes(f"{place}.preferred_batch_size", sizes, max_batch_size)


def _control_input(field: str, control_input: SequenceControlInput) -> Problems:
    if not control_input.name:
        yield error(f"{field}.name", "is empty", "name the model's control input")
    if not control_input.control:
        yield error(f"{field}.control", "is empty", "say which control the input carries")
    if len(control_input.control) > 1:
        message = f"lists {len(control_input.control)} controls, an input carries one"
        yield error(f"{field}.control", message, "give each control an input of its own")
    for index, control in enumerate(control_input.control):
        yield from _control(f"{field}.control[{index}]", control)


def _control(field: str, control: SequenceControl) -> Problems:
    yield from not_one_of(f"{field}.kind", control.kind, ENUMS[SequenceControl, "kind"])
    values = [
        pair
        for pair in (control.int32_false_true, control.fp32_false_true, control.bool_false_true)
        if pair
    ]
    if control.kind == _CORRID:
        if values:
            yield error(field, "a correlation id has no false and true", "give data_type alone")
        if control.data_type not in _ID_TYPES:
            names = ", ".join(one.config_name for one in _ID_TYPES)
            got = control.data_type.config_name if control.data_type else "none"
            yield error(f"{field}.data_type", f"must be one of {names}, got {got}", "set it")
        return
    if len(values) != 1 or len(values[0]) != 2:
        message = "needs the values for false and true, two of one type"
        yield error(field, message, "write int32_false_true: [ 0, 1 ]")
    if control.data_type is not None:
        message = f"is for {_CORRID}, the values say the type here"
        yield error(f"{field}.data_type", message, "remove it")


def _state(field: str, state: SequenceState) -> Problems:
    for name, value in (("input_name", state.input_name), ("output_name", state.output_name)):
        if not value:
            yield error(f"{field}.{name}", "is empty", "name the model's tensor")
    yield from bad_dims(f"{field}.dims", state.dims)
    if len(state.initial_state) > 1:
        count = len(state.initial_state)
        yield error(f"{field}.initial_state", f"is given {count} times", "keep one")
    for initial in state.initial_state[:1]:
        yield from _initial_state(f"{field}.initial_state[0]", initial, state)


def _initial_state(field: str, initial: SequenceInitialState, state: SequenceState) -> Problems:
    if initial.data_type is not state.data_type:
        got, wanted = initial.data_type.config_name, state.data_type.config_name
        yield error(f"{field}.data_type", f"is {got}, the state is {wanted}", f"write {wanted}")
    yield from bad_dims(f"{field}.dims", initial.dims, wildcard=False)
    if not fits(state.dims, initial.dims):
        message = f"{shape_text(initial.dims)} is none of the state's {shape_text(state.dims)}"
        yield error(f"{field}.dims", message, "give the state's dims with every size fixed")
    if initial.zero_data == bool(initial.data_file):
        yield error(field, "needs one of zero_data and data_file", "write zero_data: true")
    yield from not_a_file_name(f"{field}.data_file", initial.data_file)


def ensemble_problems(config: ModelConfig) -> Problems:
    """The block ensemble_scheduling: each tensor is made once, before it is used."""
    ensemble = config.ensemble_scheduling
    if ensemble is None:
        if config.platform == "ensemble":
            message = "is 'ensemble', but there is no ensemble_scheduling"
            yield error("platform", message, "add the steps")
        return
    field = "ensemble_scheduling"
    if config.platform not in ("", "ensemble"):
        message = f"is '{config.platform}', but there are steps of an ensemble"
        yield warning("platform", message, "write platform: 'ensemble'")
    if config.instance_group:
        message = "an ensemble has no instances, its models have"
        yield error("instance_group", message, "remove the instance groups")
    if config.backend not in ("", "ensemble"):
        message = f"is '{config.backend}', but an ensemble is made of other models"
        yield error("backend", message, "remove the backend")
    if config.model_warmup:
        message = "an ensemble executes nothing itself, its models do"
        yield error("model_warmup", message, "warm up the models of the steps")
    yield from below(f"{field}.max_inflight_requests", ensemble.max_inflight_requests, 0)
    if not ensemble.step:
        yield error(f"{field}.step", "is empty", "name at least one model")
    for index, step in enumerate(ensemble.step):
        yield from _step(f"{field}.step[{index}]", step, config.name)
    yield from _flow(field, config, ensemble.step)


def _step(field: str, step: EnsembleStep, own_name: str) -> Problems:
    if not step.model_name:
        yield error(f"{field}.model_name", "is empty", "name the model of the step")
    if step.model_name and step.model_name == own_name:
        yield error(f"{field}.model_name", "is the ensemble itself", "name another model")
    if step.model_version != -1 and step.model_version < 1:
        message = f"must be >= 1, or -1 for the latest, got {step.model_version}"
        yield error(f"{field}.model_version", message, "write -1")
    for name, tensors in (("input_map", step.input_map), ("output_map", step.output_map)):
        if not tensors:
            yield error(f"{field}.{name}", "is empty", "map the tensors of the step's model")
        if not all(tensors) or not all(tensors.values()):
            yield error(f"{field}.{name}", "holds an empty name", "name both tensors")


def _flow(field: str, config: ModelConfig, steps: Sequence[EnsembleStep]) -> Problems:
    given = [tensor.name for tensor in config.input]
    made = Counter([*given, *(name for step in steps for name in step.output_map.values())])
    for name, count in made.items():
        if count > 1:
            message = f"the tensor '{name}' is made {count} times"
            yield error(f"{field}.step", message, "give each output a name of its own")
    for index, step in enumerate(steps):
        for own, name in step.input_map.items():
            if name and name not in made:
                message = f"the tensor '{name}' is no input of the ensemble and no step's output"
                yield error(f'{field}.step[{index}].input_map["{own}"]', message, "connect it")
    for index, output in enumerate(config.output):
        if output.name not in made or output.name in given:
            message = f"no step makes the tensor '{output.name}'"
            yield error(f"output[{index}].name", message, "map a step's output to it")
    used = {name for step in steps for name in step.input_map.values()}
    for index, tensor in enumerate(config.input):
        if tensor.name not in used:
            message = f"no step reads the tensor '{tensor.name}'"
            yield warning(f"input[{index}].name", message, "map it to a step's input")
    stuck = _stuck(given, steps)
    if stuck and all(name in made for step in steps for name in step.input_map.values()):
        message = f"the steps {stuck[:8]} wait for each other's outputs"
        yield error(f"{field}.step", message, "break the circle")


def _stuck(given: Iterable[str], steps: Sequence[EnsembleStep]) -> list[int]:
    """Indices of the steps that can never run, in linear time."""
    waiting = [len(set(step.input_map.values())) for step in steps]
    readers: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for name in set(step.input_map.values()):
            readers.setdefault(name, []).append(index)
    ready = list(dict.fromkeys(given))
    for index, step in enumerate(steps):
        if not waiting[index]:
            ready += step.output_map.values()
    while ready:
        for index in readers.pop(ready.pop(), ()):
            waiting[index] -= 1
            if not waiting[index]:
                ready += steps[index].output_map.values()
    return [index for index, count in enumerate(waiting) if count]
