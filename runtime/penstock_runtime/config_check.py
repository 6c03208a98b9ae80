"""Completes a configuration with Triton's defaults, and finds everything that is wrong in it.

`check` decides whether a model may be loaded; `problems` says all that a person could better.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, islice

from penstock_runtime.config import InstanceGroup, LatestVersions, ModelConfig, VersionPolicy
from penstock_runtime.config_check_batching import batching_problems
from penstock_runtime.config_check_sequence import ensemble_problems, sequence_problems
from penstock_runtime.config_check_tensors import (
    ragged_problems,
    tensor_problems,
    warmup_problems,
)
from penstock_runtime.config_problem import (
    Problem,
    Problems,
    below,
    error,
    not_a_file_name,
    not_one_of,
    repeated,
    warning,
)
from penstock_runtime.config_scheduling import DynamicBatching, SequenceBatching
from penstock_runtime.config_schema import ENUMS, FAULT_LIMIT
from penstock_runtime.errors import InvalidArgument, Violation

__all__ = ["Problem", "check", "normalise", "problems"]

# Triton's, for a sequence that is silent.
SEQUENCE_IDLE_MICROSECONDS = 1_000_000
# Each instance is a thread with its own buffers.
INSTANCE_LIMIT = 1024
PROBLEM_LIMIT = 256

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OWN_LABELS = frozenset({"model", "version", "reason", "le", "quantile"})


def normalise(config: ModelConfig) -> ModelConfig:
    """The configuration as the ModelConfig RPC shows it, with Triton's defaults written out.

    No version policy becomes the latest version, no instance group one instance, a dynamic batcher
    without preferred sizes prefers max_batch_size. Doing it twice changes nothing.
    """
    return replace(
        config,
        version_policy=_version_policy(config.version_policy),
        instance_group=_instance_groups(config),
        dynamic_batching=_dynamic(config.dynamic_batching, config.max_batch_size),
        sequence_batching=_sequence(config.sequence_batching, config.max_batch_size),
    )


def _version_policy(policy: VersionPolicy | None) -> VersionPolicy:
    if policy is None or policy == VersionPolicy():
        return VersionPolicy(latest=LatestVersions())
    return policy


def _instance_groups(config: ModelConfig) -> tuple[InstanceGroup, ...]:
    if config.ensemble_scheduling is not None:
        return config.instance_group
    groups = config.instance_group or (InstanceGroup(),)
    if not config.name:
        return groups
    return tuple(
        group if group.name else replace(group, name=f"{config.name}_{index}")
        for index, group in enumerate(groups)
    )


def _dynamic(batching: DynamicBatching | None, max_batch_size: int) -> DynamicBatching | None:
    if batching is None or batching.preferred_batch_size or max_batch_size < 1:
        return batching
    return replace(batching, preferred_batch_size=(max_batch_size,))


def _sequence(sequence: SequenceBatching | None, max_batch_size: int) -> SequenceBatching | None:
    if sequence is None:
        return None
    oldest = sequence.oldest
    if oldest is not None and not oldest.preferred_batch_size and max_batch_size > 0:
        oldest = replace(oldest, preferred_batch_size=(max_batch_size,))
    idle = sequence.max_sequence_idle_microseconds or SEQUENCE_IDLE_MICROSECONDS
    return replace(sequence, oldest=oldest, max_sequence_idle_microseconds=idle)


def check(config: ModelConfig) -> None:
    """InvalidArgument for a configuration that cannot be served.

    It says the first error; its violations list all of them, up to a bound.
    """
    errors = (problem for problem in _all(config) if problem.severity == "error")
    found = list(islice(errors, FAULT_LIMIT))
    if found:
        raise InvalidArgument(
            f"{found[0].field}: {found[0].message}",
            reason="INVALID_MODEL_CONFIG",
            violations=tuple(Violation(problem.field, problem.message) for problem in found),
        )


def problems(config: ModelConfig) -> list[Problem]:
    """Everything wrong or doubtful, in the order of the rules; the first 256 of very many."""
    return list(islice(_all(config), PROBLEM_LIMIT))


def _all(config: ModelConfig) -> Problems:
    return chain.from_iterable(rule(config) for rule in RULES)


def _general(config: ModelConfig) -> Problems:
    if re.search(r"[/\\\x00-\x1f\x7f]|^\.\.?$", config.name):
        message = f"{config.name!r} is no name of a folder"
        yield error("name", message, "use letters, digits, '_', '-' and '.'")
    yield from below("max_batch_size", config.max_batch_size, 0)
    for field in ("default_model_filename", "runtime"):
        yield from not_a_file_name(field, getattr(config, field))
    blocks = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")
    given = [name for name in blocks if getattr(config, name) is not None]
    if len(given) > 1:
        yield error(given[1], f"cannot stand beside {given[0]}", "keep one kind of scheduling")
    if config.decoupled and config.response_cache is not None and config.response_cache.enable:
        message = "cannot be enabled for a decoupled model"
        yield error("response_cache", message, "disable the cache")


def _versions(config: ModelConfig) -> Problems:
    policy = config.version_policy
    if policy is None:
        return
    names = ("latest", "all", "specific")
    given = [name for name in names if getattr(policy, name) is not None]
    if len(given) > 1:
        message = f"must be one of latest, all and specific, got {' and '.join(given)}"
        yield error("version_policy", message, "keep one")
    if policy.latest is not None:
        yield from below("version_policy.latest.num_versions", policy.latest.num_versions, 1)
    if policy.specific is not None:
        field = "version_policy.specific.versions"
        if not policy.specific.versions:
            yield error(field, "is empty", "list the versions to serve")
        for index, version in enumerate(policy.specific.versions):
            yield from below(f"{field}[{index}]", version, 1)
        yield from repeated(field, policy.specific.versions)


def _instances(config: ModelConfig) -> Problems:
    groups = config.instance_group
    for index, group in enumerate(groups):
        yield from _instance_group(f"instance_group[{index}]", group)
    total = sum(max(group.count, 0) * max(len(group.gpus), 1) for group in groups)
    if total > INSTANCE_LIMIT:
        message = f"asks for {total} instances, at most {INSTANCE_LIMIT} are allowed"
        yield error("instance_group", message, "lower the counts")
    yield from _resources(groups)
    kinds = {group.kind for group in groups}
    rated = any(group.rate_limiter and group.rate_limiter.resources for group in groups)
    if "KIND_PROCESS" in kinds and config.sequence_batching is not None and rated:
        # They are waited for with a batch in hand, by whoever does not know of processes.
        message = "KIND_PROCESS is not there for models with sequences that need resources"
        yield error("instance_group", message, "choose another kind, or name no resources")
    if "KIND_PROCESS" in kinds and len(kinds) > 1:
        message = "has groups with and without KIND_PROCESS, so that the model is not kept apart"
        yield error("instance_group", message, "write KIND_PROCESS in all of them or in none")
    yield from _in_place(config)
    if groups and all(group.passive for group in groups):
        message = "every group is passive, so that no instance takes a request"
        yield warning("instance_group", message, "remove passive from one group")


def _in_place(config: ModelConfig) -> Problems:
    """Whoever brings a request may execute the instance: for one that needs nothing around it."""
    if not config.in_place:
        return
    groups, field = config.instance_group, "instance_group[0].in_place"
    if len(groups) > 1 or groups[0].count > 1 or groups[0].kind != "KIND_CPU":
        message = "is for one instance in host memory"
        yield error(field, message, "write one group, of kind KIND_CPU with count 1")
    if groups[0].rate_limiter is not None and groups[0].rate_limiter.resources:
        yield error(field, "goes with no resources, which may have to be waited for", "drop one")
    if not config.alone or config.sequence_batching is not None:
        yield error(field, "is for models whose requests are executed one by one", "drop one")
    if config.decoupled:
        yield error(field, "is for models with one response to a request", "remove it")
    if config.response_cache is not None and config.response_cache.enable:
        yield error(field, "goes with no response cache, which stands before it", "drop one")


def _resources(groups: Sequence[InstanceGroup]) -> Problems:
    """As in Triton, a resource is one for all or one of each device."""
    shared: dict[str, bool] = {}
    for index, group in enumerate(groups):
        for one in group.rate_limiter.resources if group.rate_limiter is not None else ():
            if shared.setdefault(one.name, one.global_) != one.global_:
                field = f"instance_group[{index}].rate_limiter.resources"
                message = (
                    f"'{one.name}' is global and of each device: a server with"
                    " --rate-limit=execution_count refuses that"
                )
                yield warning(field, message, "give it global: true everywhere, or nowhere")
                return


def _instance_group(field: str, group: InstanceGroup) -> Problems:
    if not 1 <= group.count <= INSTANCE_LIMIT:
        message = f"must be from 1 to {INSTANCE_LIMIT}, got {group.count}"
        yield error(f"{field}.count", message, "write how many instances each device gets")
    yield from not_one_of(f"{field}.kind", group.kind, ENUMS[InstanceGroup, "kind"])
    if group.gpus and group.kind in ("KIND_CPU", "KIND_MODEL"):
        yield error(f"{field}.gpus", f"is for KIND_GPU, the kind is {group.kind}", "remove it")
    for index, gpu in enumerate(group.gpus):
        yield from below(f"{field}.gpus[{index}]", gpu, 0)
    yield from repeated(f"{field}.gpus", group.gpus)
    if group.rate_limiter is None:
        return
    place = f"{field}.rate_limiter"
    yield from below(f"{place}.priority", group.rate_limiter.priority, 0)
    for index, resource in enumerate(group.rate_limiter.resources):
        yield from below(f"{place}.resources[{index}].count", resource.count, 1)
        if not resource.name:
            yield error(f"{place}.resources[{index}].name", "is empty", "name the resource")


def _metric_tags(config: ModelConfig) -> Problems:
    for name in config.metric_tags:
        field = f'metric_tags["{name}"]'
        if not _LABEL.fullmatch(name):
            yield error(field, "is no name of a label", "use letters, digits and '_'")
        elif name in _OWN_LABELS or name.startswith("__"):
            yield error(field, "is a label that metrics have already", "choose another name")


RULES: tuple[Callable[[ModelConfig], Problems], ...] = (
    _general,
    _versions,
    _instances,
    _metric_tags,
    tensor_problems,
    ragged_problems,
    batching_problems,
    sequence_problems,
    ensemble_problems,
    warmup_problems,
)
