"""A GPU that is lost to this process: after some errors CUDA refuses it everything there, whoever
asks, and only a new process finds the GPU again. Told by their texts, which torch and CuPy share.
"""

from penstock_runtime.errors import InstanceDied

# As the driver describes the errors of which CUDA's documentation says that they leave the process
# in an inconsistent state.
_ENDS = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "device-side assert triggered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
)
_CUDA = ("CUDA error", "cudaError", "CUDA_ERROR")


def lost_device(error: BaseException) -> str:
    """How CUDA says that the GPU is lost; nothing where it may go on."""
    text = str(error)
    if not any(mark in text for mark in _CUDA):
        return ""
    return next((end for end in _ENDS if end in text), "")


def gpu_lost(whose: str, how: str) -> InstanceDied:
    """What callers are told by one whose GPU is lost, as `lost_device` says how."""
    return InstanceDied(f"{whose} has lost its GPU: {how}", reason="DEVICE_LOST", scheduled=True)
