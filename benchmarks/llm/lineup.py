"""The engines of a comparison, all loaded before the first is measured and gone after the last."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.llm import peers
from benchmarks.llm.served import served
from benchmarks.llm.workers import Contestant, worker
from benchmarks.peers.process import Launch, PeerError

OURS, SERVED = "penstock, engine", "penstock, gRPC"
CB16, CB32 = "transformers CB, block 16", "transformers CB, block 32"
VLLM, OPENVINO = "vLLM CPU", "OpenVINO GenAI"
KEYS = {
    "ours": OURS,
    "grpc": SERVED,
    "cb16": CB16,
    "cb32": CB32,
    "vllm": VLLM,
    "openvino": OPENVINO,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """How engines are set up: the same for all that can be. `more` is for ours alone."""

    model: Path
    dtype: str = "bf16"
    threads: int = 1
    max_batched_tokens: int = 256
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> dict[str, Any]:
        """What a worker is told."""
        return {
            "model": str(self.model),
            "dtype": self.dtype,
            "threads": self.threads,
            "max_batched_tokens": self.max_batched_tokens,
            **self.more,
        }


@contextlib.contextmanager
def contestants(
    names: Sequence[str], setting: Setting, folder: Path
) -> Iterator[dict[str, Contestant]]:
    """Those of them that can be had, ready; the others are told about and left out."""
    found: dict[str, Contestant] = {}
    with contextlib.ExitStack() as stack:
        # All of them load at once; our server, which waits for itself, comes last.
        waits: dict[str, Callable[[], Contestant]] = {}
        for number, name in enumerate(names):
            place = folder / str(number)
            with _told(name):
                waits[name] = _begun(stack, name, setting, place)
        for name in sorted(waits, key=lambda name: name == SERVED):
            with _told(name):
                found[name] = waits[name]()
        print(f"loaded, {setting.dtype}: {', '.join(found)}", flush=True)
        yield found


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Say why an engine is left out, if it is."""
    try:
        yield
    except (PeerError, OSError) as error:
        print(f"{name} is left out: {error}", flush=True)


def _begun(
    stack: contextlib.ExitStack, name: str, setting: Setting, folder: Path
) -> Callable[[], Contestant]:
    """Begin to load an engine; what is returned waits until it is ready."""
    job = setting.job
    if name == SERVED:
        return lambda: stack.enter_context(served(job, folder))
    if name == OPENVINO:
        folder.parent.mkdir(parents=True, exist_ok=True)
        job["gguf"] = str(peers.gguf(setting.model, folder.parent))
    if name in (CB16, CB32):
        job["block_size"] = 16 if name == CB16 else 32
    started = stack.enter_context(worker(_LAUNCHES[name](), job, folder))
    return started.wait_ready


def _own(module: str) -> Callable[[], Launch]:
    return lambda: Launch([sys.executable, "-m", f"benchmarks.llm.engines.{module}"])


_LAUNCHES: dict[str, Callable[[], Launch]] = {
    OURS: _own("ours"),
    CB16: _own("transformers_cb"),
    CB32: _own("transformers_cb"),
    VLLM: peers.vllm_offline,
    OPENVINO: peers.openvino,
}
