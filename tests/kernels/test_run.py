"""Laws of running by name: who executes is chosen once, and nothing missing breaks an import."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock_kernels import device, registry, run
from penstock_kernels.cubins import Cubins
from penstock_kernels.cuda_runner import Cuda
from penstock_kernels.declare import Kernel
from penstock_kernels.nvrtc import Compiled

GATE = registry.kernel("silu_mul")


def gate_arguments() -> dict[str, Any]:
    return {"both": np.ones((2, 16), np.float16), "out": np.zeros((2, 8), np.float16)}


def test_a_kernel_runs_by_its_name() -> None:
    """Without a GPU the reference answers, in place."""
    arguments = gate_arguments()

    run.run("silu_mul", **arguments)

    assert arguments["out"].tolist() == [[np.float16(1 / (1 + np.exp(-1.0)))] * 8] * 2


def test_the_runner_of_a_process_is_chosen_once() -> None:
    """Who runs the second kernel ran the first."""
    assert run.runner() is run.runner()


def test_a_name_that_is_not_known_is_said() -> None:
    """With the names that are."""
    with pytest.raises(ValueError, match=r"no kernel 'silu', expected one of .*silu_mul"):
        run.run("silu")


def test_a_kind_that_is_not_known_is_said() -> None:
    """With the kinds that are."""
    with pytest.raises(ValueError, match="'gpu', expected auto, cuda or reference"):
        run.load("gpu")


def test_without_a_device_only_who_insists_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` falls back to the reference, `cuda` says what is missing."""

    def nothing() -> Any:
        raise device.NoDeviceError("no CUDA device: the driver shows none")

    monkeypatch.setattr(run, "find_cupy", nothing)

    assert run.load("auto").name == "reference"
    assert run.load("reference").name == "reference"
    with pytest.raises(device.NoDeviceError, match="no CUDA device"):
        run.load("cuda")


def test_with_a_device_auto_is_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy that answers is taken."""
    monkeypatch.setattr(run, "find_cupy", FakeCupy)

    assert run.load("auto").name == "cuda"


def test_what_a_plan_refuses_the_reference_refuses_too() -> None:
    """A model that was tried on a CPU meets no other limits on a GPU."""
    arguments = {"both": np.ones((2, 6), np.float16), "out": np.zeros((2, 3), np.float16)}

    with pytest.raises(ValueError, match="rows of width 3, expected a multiple of 8"):
        run.Reference().run(GATE, arguments)


def test_what_was_not_compiled_is_refused_with_what_was() -> None:
    """By every runner, before anything runs: a cast that exists only in NumPy is no kernel."""
    arguments = {
        "slab": np.zeros(4, np.uint8),
        "start": np.zeros(1, np.int64),
        "count": np.ones(1, np.int32),
        "dtype": np.float32,
        "out": np.zeros((1, 1), np.int32),
        "mask": None,
        "pad": 0.0,
    }

    with pytest.raises(ValueError, match=r"gather_pad has no gather_pad<float, int>, expected one"):
        run.Reference().run(registry.kernel("gather_pad"), arguments)


@pytest.mark.parametrize("kernel", registry.KERNELS.values(), ids=lambda kernel: kernel.name)
def test_the_functions_of_a_kernel_take_the_same_arguments(kernel: Kernel) -> None:
    """Plan, reference and traffic of every kernel take the same arguments, outputs among them."""
    names = [
        function.__code__.co_varnames[: function.__code__.co_argcount]
        for function in (kernel.plan, kernel.reference, kernel.traffic)
    ]

    assert names[0] == names[1] == names[2]
    assert set(kernel.outputs) <= set(names[0])


def test_the_package_imports_where_nothing_is_writable() -> None:
    """Neither a home directory nor CuPy nor a driver is needed to import and run a kernel."""
    code = (
        "import sys, numpy as np; from penstock_kernels import run\n"
        "x = np.ones((1, 16), np.float32); out = np.zeros((1, 8), np.float32)\n"
        "arguments = {'both': x, 'out': out}\n"
        "run.load('reference').run(run.registry.kernel('silu_mul'), arguments)\n"
        "print(out[0, 0] > 0.7, 'cupy' in sys.modules)"
    )
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "HOME": "/nonexistent",
        "PATH": "/usr/bin:/bin",
    }

    done = subprocess.run(
        check=False,
        args=[sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )

    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")


# -- the runner of GPUs, on a CuPy that only writes down -------------------------------------------


class FakeModule:
    """CuPy's module: remembers what it loaded, and gives functions that write down."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._device = cupy.current

    def __del__(self) -> None:
        self._cupy.unloaded.append((self._device, self._cupy.current))

    def load(self, cubin: bytes) -> None:
        self._cupy.loaded.append(cubin)

    def get_function(self, symbol: str) -> Any:
        def function(grid: Any, block: Any, arguments: Any, shared: int, stream: Any) -> None:
            self._cupy.launched.append((symbol, grid, block, arguments, shared, stream.ptr))

        return function


class FakeDevice:
    """One, which is the current one within."""

    def __init__(self, cupy: Any, number: int) -> None:
        self._cupy = cupy
        self._number = number
        self.compute_capability = ("90", "100")[number]

    def __enter__(self) -> None:
        self._before, self._cupy.current = self._cupy.current, self._number

    def __exit__(self, *_: object) -> None:
        self._cupy.current = self._before


class FakeCupy:
    """As much of CuPy as the runner uses; it is its own `cuda`, `runtime` and `function`."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []
        self.launched: list[Any] = []
        self.unloaded: list[tuple[int, int]] = []
        self.freed: list[int] = []
        self.current = 0
        self.cuda = self.runtime = self.function = self

    def getDevice(self) -> int:  # noqa: N802
        return self.current

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: self.freed.append(self.current))

    def get_current_stream(self) -> Any:
        return type("Stream", (), {"ptr": 5})()

    def Device(self, number: int) -> Any:  # noqa: N802
        return FakeDevice(self, number)

    def Module(self) -> FakeModule:  # noqa: N802
        return FakeModule(self)


class OnDevice:
    """An array of torch's, as far as a launch needs it."""

    dtype = np.dtype(np.float16)

    def __init__(self, *shape: int, pointer: int) -> None:
        self.shape = shape
        self._pointer = pointer

    def data_ptr(self) -> int:
        return self._pointer

    def __getitem__(self, rows: slice) -> "OnDevice":
        return self


def compiling(compiled: list[str]) -> Any:
    def compile_cubin(source: str, name: str, instances: tuple[str, ...], arch: str) -> Compiled:
        compiled.append(f"{name} {arch}")
        return Compiled(b"code for " + arch.encode(), {i: f"_{i}" for i in instances}, "")

    return compile_cubin


def cubins_in(folder: Path, compiled: list[str], version: str = "13.0") -> Cubins:
    return Cubins(folder / "built", folder / "cache", compiling(compiled), lambda: version)


def test_a_launch_has_pointers_sized_scalars_and_the_stream_of_the_caller(tmp_path: Path) -> None:
    """Arrays of torch go as their addresses, an int as 4 bytes, and no stream is remembered."""
    cupy = FakeCupy()
    runner = Cuda(cupy, cubins_in(tmp_path, []))
    arguments = {"both": OnDevice(3, 32, pointer=4096), "out": OnDevice(3, 16, pointer=8192)}

    runner.run(GATE, arguments, stream=7)
    runner.run(GATE, arguments, stream=8)

    symbol, grid, block, given, shared, stream = cupy.launched[0]
    assert (symbol, grid, block, shared) == ("_silu_mul<f16>", (1, 3, 1), (256, 1, 1), 0)
    assert given == (4096, 8192, np.int32(16))
    assert isinstance(given[2], np.int32)
    assert (stream, cupy.launched[1][-1]) == (7, 8)


def test_code_is_loaded_once_for_each_device_and_of_its_architecture(tmp_path: Path) -> None:
    """A function of one device is never launched on another."""
    cupy, compiled = FakeCupy(), list[str]()
    runner = Cuda(cupy, cubins_in(tmp_path, compiled))

    for cupy.current in (0, 1, 0, 1):
        runner.load(GATE)

    assert cupy.loaded == [b"code for 90", b"code for 100"]
    assert compiled == ["activation.cu 90", "activation.cu 100"]


def test_a_launch_without_a_stream_is_on_the_one_that_the_thread_works_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's where torch is in use on a GPU, asked anew at every launch; else CuPy's."""
    cupy, handles = FakeCupy(), iter((7, 9))
    runner = Cuda(cupy, cubins_in(tmp_path, []))
    arguments = {
        "both": OnDevice(2, 16, pointer=100),
        "out": OnDevice(2, 8, pointer=200),
    }
    torch = SimpleNamespace(
        is_initialized=lambda: True,
        current_stream=lambda: SimpleNamespace(cuda_stream=next(handles)),
    )
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    runner.run(GATE, arguments)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=torch))
    runner.run(GATE, arguments)
    runner.run(GATE, arguments)
    runner.run(GATE, arguments, 3)

    assert [launched[-1] for launched in cupy.launched] == [5, 7, 9, 3]


def test_a_kernel_that_brings_its_source_is_compiled_alone_and_can_be_forgotten(
    tmp_path: Path,
) -> None:
    """Nothing is loaded of it any more then, on no device; the next run loads it anew."""
    cupy, compiled = FakeCupy(), list[str]()
    runner = Cuda(cupy, cubins_in(tmp_path, compiled))
    own = replace(GATE, source="model.cu#1", text="// a source", instances=GATE.instances[:2])

    runner.load(own)
    runner.load(own)
    runner.forget(own)
    runner.load(own)
    runner.load(GATE)

    assert compiled == ["model.cu#1 90", "activation.cu 90"]
    assert len(cupy.loaded) == 3


def test_two_loads_of_one_source_share_what_is_compiled_and_nothing_else(tmp_path: Path) -> None:
    """The one that is forgotten leaves the other's code where it is."""
    cupy, compiled = FakeCupy(), list[str]()
    runner = Cuda(cupy, cubins_in(tmp_path, compiled))
    old, new = (
        replace(GATE, source=f"model.cu#{n}", text="// a source", instances=GATE.instances[:1])
        for n in (1, 2)
    )

    runner.load(old)
    runner.load(new)
    runner.forget(old)
    runner.load(new)

    assert compiled == ["model.cu#1 90"]
    assert len(cupy.loaded) == 2


def test_code_is_unloaded_from_the_gpu_that_it_was_loaded_into(tmp_path: Path) -> None:
    """Whoever forgets it works on another, or on none so far."""
    cupy = FakeCupy()
    runner = Cuda(cupy, cubins_in(tmp_path, []))
    own = replace(GATE, source="model.cu#1", text="// a source", instances=GATE.instances[:1])
    for cupy.current in (0, 1):
        runner.load(own)
    cupy.current = 0

    runner.forget(own)

    assert sorted(cupy.unloaded) == [(0, 0), (1, 1)]
    assert cupy.current == 0


def test_memory_that_cupy_keeps_is_freed_on_the_gpus_in_use(tmp_path: Path) -> None:
    """And on no other, where that would make a context."""
    cupy = FakeCupy()
    runner = Cuda(cupy, cubins_in(tmp_path, []))
    runner.release()
    cupy.current = 1
    runner.load(GATE)
    cupy.current = 0

    runner.release()

    assert cupy.freed == [1]
