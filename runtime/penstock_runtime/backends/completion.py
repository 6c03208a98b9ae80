"""A configuration completed by what a model's code says of itself, and held against it.

The configuration may leave anything out; where both speak they have to agree, and an error names
both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    ModelInput,
    ModelOutput,
    TransactionPolicy,
)
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model_api import TensorSpec
from penstock_runtime.sequence_controls import control_types
from penstock_runtime.signature import Signature, check_context
from penstock_runtime.signature_annotations import Field


def complete_from_signature(config: ModelConfig, signature: Signature, backend: str) -> ModelConfig:
    """The configuration with inputs, outputs, batch size, batching, decoupled mode, instances and
    labels filled in. Raises InvalidArgument where the two contradict each other.
    """
    settings = signature.settings
    if settings.name and config.name and settings.name != config.name:
        raise _conflict(config, "the name", config.name, settings.name)
    if config.decoupled and not signature.kind.streams:
        raise _conflict(
            config, "decoupled", "true", f"{signature.name} returns; it would have to yield"
        )
    completed = replace(
        config,
        name=config.name or settings.name,
        backend=config.backend or backend,
        max_batch_size=_max_batch_size(config, signature),
        dynamic_batching=_batching(config, signature),
        instance_group=_instances(config, signature),
        model_transaction_policy=TransactionPolicy(signature.kind.streams),
    )
    check_context(signature, completed.max_batch_size)
    return replace(
        completed,
        input=_inputs(completed, signature),
        output=_labelled(completed, signature, _outputs(completed, signature)),
    )


def provided_inputs(config: ModelConfig) -> tuple[str, ...]:
    """Inputs that no request carries, as schedulers add them: masks, controls, states."""
    names: list[str] = []
    rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
    if rules is not None and rules.mask_name:
        names.append(rules.mask_name)
    for batch_input in config.batch_input:
        names.extend(batch_input.target_name)
    if config.sequence_batching is not None:
        names.extend(control.name for control in config.sequence_batching.control_input)
        names.extend(state.input_name for state in config.sequence_batching.state)
    return tuple(names)


def told_types(config: ModelConfig) -> Mapping[str, DataType]:
    """The datatypes of inputs that tell of a batch: its mask, and what `batch_input` lists."""
    told = {name: one.data_type for one in config.batch_input for name in one.target_name}
    rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
    if rules is not None and rules.mask_name:
        told[rules.mask_name] = rules.mask_data_type
    return told


def provided_types(config: ModelConfig) -> Mapping[str, DataType]:
    """The datatypes of the controls and states that a sequence model is given."""
    rules = config.sequence_batching
    if rules is None:
        return {}
    states = {state.input_name: state.data_type for state in rules.state}
    return {**control_types(rules), **states}


def kept_outputs(config: ModelConfig) -> tuple[ModelOutput, ...]:
    """Outputs that no response carries: the states of a sequence."""
    states = config.sequence_batching.state if config.sequence_batching else ()
    return tuple(ModelOutput(s.output_name, s.data_type, s.dims) for s in states)


def _max_batch_size(config: ModelConfig, signature: Signature) -> int:
    limit = signature.max_batch_size
    if limit and config.max_batch_size > limit:
        raise _conflict(config, "max_batch_size", str(config.max_batch_size), f"at most {limit}")
    return config.max_batch_size or limit


def _batching(config: ModelConfig, signature: Signature) -> DynamicBatching | None:
    wanted = signature.settings.batching
    if config.dynamic_batching is not None or config.sequence_batching is not None:
        return config.dynamic_batching
    said = signature.max_batch_size > 0 or wanted != DynamicBatching()
    return wanted if said and not signature.kind.streams else None


def _instances(config: ModelConfig, signature: Signature) -> tuple[InstanceGroup, ...]:
    if config.instance_group or signature.settings.instances == 1:
        return config.instance_group
    return (InstanceGroup(count=signature.settings.instances),)


def _inputs(config: ModelConfig, signature: Signature) -> tuple[ModelInput, ...]:
    provided, types = provided_inputs(config), provided_types(config)
    for field in signature.inputs:
        _check_provided(config, field, types.get(field.name))
    fields = [field for field in signature.inputs if field.name not in provided]
    if config.input:
        _check_inputs(config, signature, fields)
        return config.input
    if signature.open_inputs and not fields:
        raise InvalidArgument(
            f"model '{config.name}': {signature.name} takes any input (**), so the configuration"
            " has to list them"
        )
    return tuple(
        ModelInput(field.name, spec.data_type, spec.dims, optional=field.optional)
        for field in fields
        for spec in [_declared(config, signature, field, "input")]
    )


def _outputs(config: ModelConfig, signature: Signature) -> tuple[ModelOutput, ...]:
    declared = {output.name for output in config.output}
    # A state that is an output too is both.
    kept = {output.name for output in kept_outputs(config)} - declared
    fields = [field for field in signature.outputs if field.name not in kept]
    if config.output:
        _check_outputs(config, signature, fields)
        return config.output
    if not fields:
        raise InvalidArgument(
            f"model '{config.name}': {signature.name} does not say what it returns; annotate it,"
            " for instance -> FP32[1], or list the outputs in the configuration"
        )
    return tuple(
        ModelOutput(field.name, spec.data_type, spec.dims)
        for field in fields
        for spec in [_declared(config, signature, field, "output")]
    )


def _declared(config: ModelConfig, signature: Signature, field: Field, what: str) -> ModelInput:
    if field.spec is None:
        raise InvalidArgument(
            f"model '{config.name}': {what} '{field.name}' of {signature.name} has no datatype and"
            f" dims; annotate it, for instance {field.key or field.name}: FP32[16], or list it in"
            " the configuration"
        )
    return ModelInput(field.name, field.spec.datatype, field.spec.dims)


def _check_inputs(config: ModelConfig, signature: Signature, fields: Sequence[Field]) -> None:
    known = {field.name: field for field in fields}
    for declared in config.input:
        field = known.get(declared.name)
        if field is None:
            if not signature.open_inputs:
                raise _unknown(config, "input", declared.name, signature, list(known))
            continue
        _check_tensor(config, "input", declared, field.spec)
        if declared.optional and not field.optional:
            raise _conflict(
                config, f"input '{declared.name}'", "optional", "a parameter without a default"
            )
    for field in fields:
        if not field.optional and config.find_input(field.name) is None:
            listed = ", ".join(declared.name for declared in config.input)
            raise _conflict(
                config, "the inputs", listed, f"{signature.name} also needs '{field.name}'"
            )


def _check_provided(config: ModelConfig, field: Field, given: DataType | None) -> None:
    """A control or a state that the code annotates is what the configuration says it is."""
    if given is not None and field.spec is not None and field.spec.datatype is not given:
        coded = field.spec.datatype.value
        raise _conflict(config, f"sequence input '{field.name}'", given.value, coded)


def _check_outputs(config: ModelConfig, signature: Signature, fields: Sequence[Field]) -> None:
    known = {field.name: field for field in fields}
    for declared in config.output if fields else ():
        field = known.get(declared.name)
        if field is None:
            raise _unknown(config, "output", declared.name, signature, list(known))
        _check_tensor(config, "output", declared, field.spec)


def _check_tensor(
    config: ModelConfig, what: str, declared: ModelInput | ModelOutput, spec: TensorSpec | None
) -> None:
    if spec is None:
        return
    # With `reshape` the model sees another shape than its clients.
    dims = declared.reshape.shape if declared.reshape is not None else declared.dims
    fits = declared.name in _flat_tensors(config) or (
        len(dims) == len(spec.dims)
        and all(-1 in (a, b) or a == b for a, b in zip(dims, spec.dims, strict=True))
    )
    if declared.data_type is not spec.datatype or not fits:
        text = f"{declared.data_type.value}[{', '.join(map(str, dims))}]"
        code = f"{spec.datatype.value}[{', '.join(map(str, spec.dims))}]"
        raise _conflict(config, f"{what} '{declared.name}'", text, code)


def _flat_tensors(config: ModelConfig) -> frozenset[str]:
    """What the model sees flat, however many dimensions its clients see."""
    cut = (name for one in config.batch_output for name in one.target_name)
    return config.ragged_inputs.union(cut)


def _labelled(
    config: ModelConfig, signature: Signature, outputs: tuple[ModelOutput, ...]
) -> tuple[ModelOutput, ...]:
    labels = signature.settings.labels
    names = [output.name for output in outputs]
    for name in labels:
        if name not in names:
            raise _unknown(config, "labels of output", name, signature, names)
    return tuple(
        replace(output, label_filename=output.label_filename or labels.get(output.name, ""))
        for output in outputs
    )


def _conflict(config: ModelConfig, what: str, configured: str, coded: str) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': {what} is {configured} in the configuration, but the code says"
        f" {coded}"
    )


def _unknown(
    config: ModelConfig, what: str, name: str, signature: Signature, known: list[str]
) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': the configuration names {what} '{name}', which {signature.name}"
        f" does not have; it has {', '.join(known) or 'none'}"
    )
