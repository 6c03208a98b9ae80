"""From instance groups to placements: how many instances, where, and what they are called."""

from dataclasses import dataclass

from penstock_kernels.device import cuda_device_count
from penstock_runtime.backends.base import Placement
from penstock_runtime.config import InstanceGroup, ModelConfig, RateLimiter
from penstock_runtime.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one instance, and what its group says of the resources that it needs."""

    placement: Placement
    group: RateLimiter | None = None


def placements(
    config: ModelConfig, *, uses_gpu: bool, devices: int | None = None
) -> tuple[Placement, ...]:
    """One placement per instance, in order; `devices` is the number of GPUs (None: ask the
    machine).

    KIND_AUTO is a GPU where there is one and the backend uses it. KIND_GPU without a GPU is
    refused.
    """
    return tuple(seat.placement for seat in seats(config, uses_gpu=uses_gpu, devices=devices))


def seats(config: ModelConfig, *, uses_gpu: bool, devices: int | None = None) -> tuple[Seat, ...]:
    """As `placements`, with what each instance needs to execute."""
    count = cuda_device_count() if devices is None else devices
    found: list[Seat] = []
    for number, group in enumerate(config.instance_group or (InstanceGroup(),)):
        places = _of_group(config.name, number, group, uses_gpu, count)
        found.extend(Seat(place, group.rate_limiter) for place in places)
    return tuple(found)


def _of_group(
    model: str, number: int, group: InstanceGroup, uses_gpu: bool, devices: int
) -> list[Placement]:
    kind = _kind(group, uses_gpu, devices)
    base = group.name or f"{model}_{number}"
    if kind != "KIND_GPU":
        apart = group.kind == "KIND_PROCESS"
        return [Placement(f"{base}_{i}", kind, process=apart) for i in range(group.count)]
    ordinals = group.gpus or tuple(range(devices))
    for ordinal in ordinals:
        if not 0 <= ordinal < devices:
            raise InvalidArgument(
                f"instance group '{base}' of model '{model}' asks for GPU {ordinal}, "
                f"this machine has {devices}"
            )
    return [
        Placement(f"{base}_{i}_gpu{ordinal}", kind, ordinal, group.kind == "KIND_PROCESS")
        for ordinal in ordinals
        for i in range(group.count)
    ]


def _kind(group: InstanceGroup, uses_gpu: bool, devices: int) -> str:
    if group.kind == "KIND_PROCESS":
        return "KIND_GPU" if group.gpus else "KIND_CPU"
    if group.kind == "KIND_AUTO":
        return "KIND_GPU" if uses_gpu and devices else "KIND_CPU"
    if group.kind == "KIND_GPU" and not devices:
        raise InvalidArgument(
            "instance group kind KIND_GPU needs a CUDA device, this machine has 0; "
            "use KIND_AUTO or KIND_CPU"
        )
    return group.kind
