"""From instance groups to placements: how many instances, where, and what they are called."""

from penstock_kernels.device import cuda_device_count
from penstock_runtime.backends.base import Placement
from penstock_runtime.config import InstanceGroup, ModelConfig
from penstock_runtime.errors import InvalidArgument


def placements(
    config: ModelConfig, *, uses_gpu: bool, devices: int | None = None
) -> tuple[Placement, ...]:
    """One placement per instance, in order; `devices` is the number of GPUs (None: ask the
    machine).

    KIND_AUTO is a GPU where there is one and the backend uses it. KIND_GPU without a GPU is
    refused.
    """
    count = cuda_device_count() if devices is None else devices
    found: list[Placement] = []
    for number, group in enumerate(config.instance_group or (InstanceGroup(),)):
        found.extend(_of_group(config.name, number, group, uses_gpu, count))
    return tuple(found)


def _of_group(
    model: str, number: int, group: InstanceGroup, uses_gpu: bool, devices: int
) -> list[Placement]:
    kind = _kind(group, uses_gpu, devices)
    base = group.name or f"{model}_{number}"
    if kind != "KIND_GPU":
        return [Placement(f"{base}_{i}", kind) for i in range(group.count)]
    ordinals = group.gpus or tuple(range(devices))
    for ordinal in ordinals:
        if not 0 <= ordinal < devices:
            raise InvalidArgument(
                f"instance group '{base}' of model '{model}' asks for GPU {ordinal}, "
                f"this machine has {devices}"
            )
    return [
        Placement(f"{base}_{i}_gpu{ordinal}", kind, ordinal)
        for ordinal in ordinals
        for i in range(group.count)
    ]


def _kind(group: InstanceGroup, uses_gpu: bool, devices: int) -> str:
    if group.kind == "KIND_AUTO":
        return "KIND_GPU" if uses_gpu and devices else "KIND_CPU"
    if group.kind == "KIND_GPU" and not devices:
        raise InvalidArgument(
            "instance group kind KIND_GPU needs a CUDA device, this machine has 0; "
            "use KIND_AUTO or KIND_CPU"
        )
    return group.kind
