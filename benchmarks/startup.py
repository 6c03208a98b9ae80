"""How long a server without torch takes from its start to ready, and how much memory it holds.

python -m benchmarks.startup
"""

import tempfile
import time
from pathlib import Path

from benchmarks.build_repository import TORCH_FREE, build
from benchmarks.report import Finding, arguments, publish, spread
from benchmarks.server import running

SETTLED_S = 1.0


def measure(runs: int) -> Finding:
    """Start it so many times; the first start, which reads cold files, is not counted."""
    ready, resident = [], []
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder) / "repository", TORCH_FREE)
        for _ in range(runs + 1):
            with running(repository) as server:
                time.sleep(SETTLED_S)
                ready.append(server.ready_s)
                resident.append(server.resident_mb())
    seconds, memory = spread(ready[1:], "s"), spread(resident[1:], "MB", 0)
    rows = [("start to ready", seconds), ("resident memory when idle", memory)]
    return Finding("startup", ("", "median of " + str(runs)), rows, f"ready {seconds}; {memory}")


def main() -> None:
    """Measure as the command line says."""
    parser = arguments("Measure start-up and idle memory of a repository without torch.")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    publish(measure(chosen.runs), record=chosen.record)


if __name__ == "__main__":
    main()
