"""What tests of whole servers ask with: tensors, model folders, and a look at the metrics."""

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tests.e2e.running import Running
from tests.transports import chosen
from tritonclient.grpc import service_pb2_grpc

from penstock.config import ServerOptions
from penstock.config_sources import read_options

TYPES = {
    np.dtype(name): wire
    for name, wire in {
        "bool": "BOOL",
        "uint8": "UINT8",
        "uint16": "UINT16",
        "uint32": "UINT32",
        "uint64": "UINT64",
        "int8": "INT8",
        "int16": "INT16",
        "int32": "INT32",
        "int64": "INT64",
        "float16": "FP16",
        "float32": "FP32",
        "float64": "FP64",
        "object": "BYTES",
    }.items()
}


def tensors(module: Any = triton, **arrays: Any) -> list[Any]:
    """Inputs by name, of the datatypes of their arrays."""
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), TYPES[array.dtype])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def write(root: Path, name: str, code: str, config: str = "", version: str = "1") -> Path:
    """A Python model in the repository `root`; its folder."""
    folder = root / name
    (folder / version).mkdir(parents=True)
    (folder / version / "model.py").write_text(code)
    if config:
        (folder / "config.pbtxt").write_text(config)
    return folder


def page(running: Running, path: str = "/metrics") -> str:
    """A page of the metrics port."""
    address = f"http://127.0.0.1:{running.metrics_port}{path}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def samples(running: Running) -> Mapping[str, float]:
    """Every sample of a scrape by its name with its labels."""
    rows = (row.rsplit(" ", 1) for row in page(running).splitlines() if not row.startswith("#"))
    return {name: float(value) for name, value in rows}


@contextmanager
def stub_of(running: Running) -> Iterator[Any]:
    """A stub of tritonclient's messages, on a connection of its own."""
    with grpc.insecure_channel(running.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def flagged(root: Path, *flags: str) -> ServerOptions:
    """The options that `penstock serve` makes of these flags, on free loopback ports."""
    argv = (
        f"--model-repository={root}",
        "--grpc-address=127.0.0.1",
        "--grpc-port=0",
        f"--transport={chosen()}",
        "--metrics-address=127.0.0.1",
        "--metrics-port=0",
        "--allow-http=false",
        "--exit-on-error=false",
        *flags,
    )
    return read_options(argv, {})
