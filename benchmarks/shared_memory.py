"""What a large tensor costs in shared memory and in the message: an echo of it, and the copies that
stand in the place of a mapping.

python -m benchmarks.shared_memory [--transport http2] [--mb 10]
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from benchmarks.build_repository import build
from benchmarks.report import Finding, arguments, publish
from benchmarks.server import running

from penstock import Client, DataType, Place, Tensor
from penstock_runtime.memory.posix import open_posix
from penstock_runtime.memory.shared import Kind, Registration

ROW = 1024


def median_ms(work: Callable[[], object], times: int) -> float:
    """The median of so many runs, in milliseconds; the first is not counted."""
    spent = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent[1:])


def copies_ms(key: str, size: int, times: int) -> tuple[float, float, float]:
    """Reading and writing so many bytes as the server does, and copying them out of a mapping."""
    segment = open_posix(Registration("r", Kind.SYSTEM, size, key))
    mapped = np.memmap(Path("/dev/shm") / key.lstrip("/"), np.uint8, "r", shape=(size,))
    data = bytes(size)
    found = (
        median_ms(lambda: segment.read(0, size), times),
        median_ms(lambda: segment.write(0, data), times),
        median_ms(mapped.copy, times),
    )
    segment.close()
    return found


def echoes_ms(url: str, key: str, size: int, times: int) -> tuple[float, float]:
    """An echo of a tensor of this size through a region, and through messages."""
    shape = (size // 4 // ROW, ROW)
    placed = Tensor("INPUT0", DataType.FP32, shape, Place("r", size))
    sent = np.ones(shape, np.float32)
    with Client(url) as client:
        client.register_shared_memory("r", key, 2 * size)
        outputs = {"OUTPUT0": Place("r", size, size)}
        region = median_ms(lambda: client.infer("echo", {"INPUT0": placed}, outputs=outputs), times)
        message = median_ms(lambda: client.infer("echo", {"INPUT0": sent}), times)
    return region, message


def measure(mb: int, times: int, transport: str) -> Finding:
    """A table of all five, and the row for the record."""
    size = mb << 20
    flags = ["--allow-client-shm", *([f"--transport={transport}"] if transport else [])]
    memory = SharedMemory(create=True, size=2 * size)
    try:
        read, write, mapped = copies_ms(memory.name, size, times)
        with tempfile.TemporaryDirectory() as folder:
            repository = build(Path(folder) / "repository", ("echo",))
            with running(repository, *flags) as server:
                region, message = echoes_ms(server.url, memory.name, size, times)
    finally:
        memory.close()
        memory.unlink()
    rows = [
        ("copied out of the region", f"{read:.2f} ms"),
        ("copied into the region", f"{write:.2f} ms"),
        ("copied out of a mapping, which is not done", f"{mapped:.2f} ms"),
        ("echo through the region", f"{region:.1f} ms"),
        ("echo through messages", f"{message:.1f} ms"),
    ]
    summary = (
        f"{mb} MiB: read {read:.2f} ms, written {write:.2f} ms (from a mapping {mapped:.2f} ms); "
        f"echo {region:.1f} ms in a region, {message:.1f} ms in messages"
    )
    return Finding(f"shared memory {transport}".strip(), ("", f"median of {times}"), rows, summary)


def main() -> None:
    """Measure as the command line says."""
    parser = arguments("Measure tensors in shared memory beside tensors in messages.")
    parser.add_argument("--mb", type=int, default=10, help="size of the tensor, in MiB")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument(
        "--transport", choices=("grpcio", "http2"), default="", help="of the server"
    )
    chosen = parser.parse_args()
    publish(measure(chosen.mb, chosen.times, chosen.transport), record=chosen.record)


if __name__ == "__main__":
    main()
