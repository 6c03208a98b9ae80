"""Models and regions for the tests of shared memory: made as clients make them."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tests.e2e.running import Running

from penstock_runtime.model import Model

IMPORTS = """\
import time
from collections.abc import Iterator

import numpy as np
from penstock import BOOL, BYTES, FP32, INT32, model


"""
MODELS = {
    # Rows of 7 are held until the file `go` is there.
    "held": """\
@model(max_batch_size=8)
class Held:
    def load(self, args):
        self.go = args.root / "go"

    def predict(self, X: FP32[4]) -> tuple[FP32[4].named("Y"), INT32[1].named("ROWS")]:
        while X[0, 0] == 7 and not self.go.exists():
            time.sleep(0.002)
        if X[0, 0] < 0:
            raise ValueError("negative")
        return X * 2, np.full((len(X), 1), len(X), np.int32)
""",
    "zeros": """\
@model
def zeros(N: INT32[1]) -> FP32[-1].named("Y"):
    return np.zeros(N[0], np.float32)
""",
    "flags": """\
@model
def flags(B: BOOL[-1]) -> BOOL[-1].named("C"):
    return ~B
""",
    "counted": """\
CALLS = []

@model
def counted(X: FP32[2], S: BYTES[1]) -> tuple[FP32[2].named("Y"), INT32[1].named("N")]:
    CALLS.append(S)
    return X, np.array([len(CALLS)], np.int32)
""",
    "count": """\
@model
def count(X: FP32[1]) -> Iterator[tuple[FP32[1].named("Y"), INT32[1].named("I")]]:
    for index in range(3):
        yield X + index, np.array([index], np.int32)
""",
}
CONFIGS = {
    "held": "dynamic_batching { max_queue_delay_microseconds: 0 }",
    "counted": "response_cache { enable: true }",
}


def write_models(root: Path) -> Path:
    """The repository of these models."""
    for name, code in MODELS.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(IMPORTS + code)
        if name in CONFIGS:
            (root / name / "config.pbtxt").write_text(CONFIGS[name])
    return root


_NUMBERS = itertools.count()


@dataclass
class Region:
    """A region of this process that the server knows by its name."""

    name: str
    key: str
    handle: Any
    client: Any

    def put(self, *arrays: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Write arrays one after the other."""
        shm.set_shared_memory_region(self.handle, list(arrays), offset=offset)

    def get(self, dtype: Any, *shape: int, offset: int = 0) -> Any:
        """What is there, as an array."""
        return shm.get_contents_as_numpy(self.handle, dtype, list(shape), offset=offset)

    def truncate(self, size: int) -> None:
        """Make the object smaller than what is registered."""
        os.truncate(Path("/dev/shm") / self.key.lstrip("/"), size)


@contextmanager
def region(client: Any, size: int = 64, register: bool = True) -> Iterator[Region]:
    """A region, registered if not said otherwise, and gone at the end."""
    name = f"region{next(_NUMBERS)}"
    key = f"/penstock_test_{os.getpid()}_{name}"
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        if register:
            client.register_system_shared_memory(name, key, size)
        yield Region(name, key, handle, client)
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def tensor(
    name: str, shape: Sequence[int], datatype: str, *place: Any, module: Any = triton
) -> Any:
    """An input that lies there."""
    made = module.InferInput(name, list(shape), datatype)
    made.set_shared_memory(*place)
    return made


def given(name: str, array: Any, datatype: str = "FP32") -> Any:
    """An input that goes with the message."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def output(name: str, *place: Any, module: Any = triton) -> Any:
    """An output that is wanted there; in the message without a place."""
    made = module.InferRequestedOutput(name)
    if place:
        made.set_shared_memory(*place)
    return made


def until(met: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    import time

    limit = time.monotonic() + 10
    while not met():
        assert time.monotonic() < limit
        time.sleep(0.002)


def settled(running: Running) -> bool:
    """Whether no request holds anything: no region that is not registered, no bytes, no place in
    the budgets.
    """
    services = running.server.services
    registered = sum(s.value for s in services.regions.families()[0].samples)
    return (
        not running.server.core.inflight
        and services.regions.open_regions == registered
        and services.copies.used == services.budget.used == 0
    )


def held(running: Running) -> Model:
    """The model that can be held up."""
    return running.server.core.model("held")
