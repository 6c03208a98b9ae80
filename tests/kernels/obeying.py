"""Running a kernel under its law: outputs poisoned, inputs watched."""

from typing import Any

import numpy as np
from tests.kernels.law import Arguments, Law

from penstock_kernels import registry
from penstock_kernels.run import Runner


def obeyed(law: Law, runner: Runner, given: Arguments) -> bytes:
    """Run on a copy, check the law, and give all outputs' bytes."""
    kernel = registry.kernel(law.kernel)
    arguments = {name: _copied(value) for name, value in given.items()}
    for name in kernel.outputs:
        if name not in law.kept and arguments[name] is not None:
            arguments[name].view(np.uint8)[...] = 0xFF
    runner.run(kernel, arguments)
    for name, value in given.items():
        if name not in kernel.outputs and isinstance(value, np.ndarray):
            assert value.tobytes() == arguments[name].tobytes(), f"{name} is only read"
    law.check(given, arguments)
    outputs = [arguments[name] for name in kernel.outputs]
    return b"".join(output.tobytes() for output in outputs if output is not None)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
