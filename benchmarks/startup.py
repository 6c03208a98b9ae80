"""How long a server without torch takes from its start to ready, and how much memory it holds.

python -m benchmarks.startup [--transport http2]
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build_repository import TORCH_FREE, build
from benchmarks.report import Finding, arguments, publish, spread
from benchmarks.server import running

SETTLED_S = 1.0


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds to ready and MB (10^6 bytes) when idle, of each start."""

    ready_s: Sequence[float]
    resident_mb: Sequence[float]

    @property
    def median_s(self) -> float:
        """The median of the times."""
        return statistics.median(self.ready_s)

    @property
    def median_mb(self) -> float:
        """The median of the memory."""
        return statistics.median(self.resident_mb)

    def finding(self, benchmark: str) -> Finding:
        """A table of two rows, and the row for the record."""
        seconds, memory = spread(self.ready_s, "s"), spread(self.resident_mb, "MB", 0)
        rows = [("start to ready", seconds), ("resident memory when idle", memory)]
        head = ("", f"median of {len(self.ready_s)}")
        return Finding(benchmark, head, rows, f"ready {seconds}; {memory}")


def measure(runs: int, transport: str = "") -> Starts:
    """Start it so many times; the first start, which reads cold files, is not counted."""
    flags = [f"--transport={transport}"] if transport else []
    ready, resident = [], []
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder) / "repository", TORCH_FREE)
        for _ in range(runs + 1):
            with running(repository, *flags) as server:
                time.sleep(SETTLED_S)
                ready.append(server.ready_s)
                resident.append(server.resident_mb())
    return Starts(ready[1:], resident[1:])


def main() -> None:
    """Measure as the command line says."""
    parser = arguments("Measure start-up and idle memory of a repository without torch.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--transport", choices=("grpcio", "http2"), default="", help="of the server"
    )
    chosen = parser.parse_args()
    name = f"startup {chosen.transport}".strip()
    publish(measure(chosen.runs, chosen.transport).finding(name), record=chosen.record)


if __name__ == "__main__":
    main()
