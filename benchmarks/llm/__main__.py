"""Our language model engine beside transformers' continuous batching, vLLM and OpenVINO GenAI.

    python -m benchmarks.llm [--parts throughput,latency,gains] [--dtypes bf16,fp32]
        [--engines ours,grpc,cb16,cb32,vllm,openvino] [--rounds 3] [--threads 1]
        [--rate 4] [--seconds 15] [--plot FILE.svg] [--record] [--quick]

A random Llama of 32 million parameters; 16 requests at once, 2421 prompt tokens, 64 tokens each,
greedy, no prefix cache, at most 256 tokens a step. Each engine is a process of its own, all of them
loaded before, and they take turns: what counts is tokens per second of CPU. Then both servers under
the same stream of requests; then what the prefix cache and guessed tokens gain us. How the engines
are installed: `benchmarks.llm.peers`. Exit code 1 when a goal at bf16 was measured and missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.llm import gains, latency, throughput
from benchmarks.llm.lineup import KEYS, Setting
from benchmarks.llm.model import FULL, OUT, SMALL, random_model
from benchmarks.llm.picture import picture
from benchmarks.llm.workload import STANDARD, Workload
from benchmarks.report import arguments, machine, publish

PARTS = ("throughput", "latency", "gains")
DTYPES = ("bf16", "fp32")


def main() -> int:
    """Compare as the command line says."""
    chosen = _arguments()
    shape = SMALL if chosen.quick else FULL
    workload = STANDARD.shrunk(4, 8, shape.vocabulary) if chosen.quick else STANDARD
    kept = True
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        out = folder if chosen.quick else OUT
        setting = Setting(random_model(shape, out), threads=chosen.threads)
        for dtype in chosen.dtypes:
            own = Setting(setting.model, dtype, chosen.threads)
            kept = _throughput(chosen, own, workload, folder / dtype) and kept
        if "latency" in chosen.parts:
            _latency(chosen, setting, workload, folder / "latency")
        if "gains" in chosen.parts:
            found = gains.measure(setting, chosen.rounds, folder / "gains")
            publish(found, record=chosen.record)
    return 0 if kept else 1


def _arguments() -> argparse.Namespace:
    parser = arguments("Language models, here and in other engines.")
    parser.add_argument("--parts", type=_list(PARTS), default=PARTS)
    parser.add_argument("--dtypes", type=_list(DTYPES), default=DTYPES)
    parser.add_argument("--engines", type=_list(tuple(KEYS)), default=tuple(KEYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of load in a round")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run")
    return parser.parse_args()


def _list(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads some of these names, with commas between."""

    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if not set(found) <= set(known):
            raise ValueError(text)
        return found

    return names


def _throughput(
    chosen: argparse.Namespace, setting: Setting, workload: Workload, folder: Path
) -> bool:
    """Whether the goals are kept, which are of bf16."""
    if "throughput" not in chosen.parts:
        return True
    names = [KEYS[key] for key in chosen.engines]
    turns = throughput.compare(names, setting, workload, chosen.rounds, folder)
    publish(throughput.finding_of(setting.dtype, turns, workload), record=chosen.record)
    found = throughput.verdicts(turns)
    for text, _ in found:
        print(f"{setting.dtype}: {text}")
    return setting.dtype != "bf16" or all(kept for _, kept in found)


def _latency(
    chosen: argparse.Namespace, setting: Setting, workload: Workload, folder: Path
) -> None:
    load = latency.Load(chosen.rate, chosen.seconds, workload)
    found = latency.measure(setting, load, chosen.rounds, folder)
    publish(latency.finding_of(found, setting, load), record=chosen.record)
    if chosen.plot:
        title = f"Streams at {load.rate:g} requests a second, {setting.dtype}, {machine()}"
        chosen.plot.write_text(picture(found, title))


if __name__ == "__main__":
    sys.exit(main())
