"""What tests of the executor share: a compiler or a skip, a cache of builds, a way to launch."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock_kernels.declare import Launch
from penstock_kernels.emulate.compile import compiler
from penstock_kernels.emulate.module import Module
from penstock_kernels.source import flatten

HERE = Path(__file__).parent
# Beside the checkout's other build products; a read-only checkout has a temporary one.
CACHE = (
    Path(__file__).parents[2] / "build" / "emulated"
    if os.access(Path(__file__).parents[2], os.W_OK)
    else Path(tempfile.gettempdir()) / "penstock-emulated"
)
# Forward, backward, and two random ones.
ORDERS = (0, 1, 7, 2024)

needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="no C++ compiler (g++, or CXX): CUDA source is not executed"
)


def planted(name: str, instances: Sequence[str]) -> Module:
    """A source of `planted/`, built."""
    return Module(flatten(HERE / "planted" / name), tuple(instances), CACHE)


def launch(
    module: Module,
    instance: str,
    arguments: Sequence[Any],
    outputs: Sequence[Any],
    *,
    threads: int = 32,
    blocks: int = 1,
    shared: int = 0,
    order: int = 0,
) -> None:
    """One launch of a row of blocks of a row of threads."""
    what = Launch(instance, (blocks, 1, 1), (threads, 1, 1), tuple(arguments), shared)
    module.launch(what, outputs, order)
