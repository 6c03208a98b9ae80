"""The weights of a Hugging Face folder as tensors that are read when they are asked for:
safetensors only, whole or in shards, checked before anything is allocated.
"""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from penstock_runtime.backends.safetensors_file import read_header
from penstock_runtime.errors import InvalidArgument

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
Progress = Callable[[int, int], None]


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights. Raises InvalidArgument, naming the file that is not there."""
    if (directory / WHOLE).is_file():
        return [directory / WHOLE]
    if (directory / INDEX).is_file():
        return _shards(directory)
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(others) == 1:
        return [directory / others[0]]
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    found = f"; {pickled[0]} is a pickle, which is not read" if pickled else ""
    raise InvalidArgument(f"there is neither {WHOLE} nor {INDEX}{found}")


def _shards(directory: Path) -> list[Path]:
    index = read_json(directory / INDEX)
    named = index.get("weight_map")
    if not isinstance(named, dict) or not named:
        raise InvalidArgument(f"{INDEX} has no weight_map of tensor names to files")
    files = []
    for name in sorted({str(file) for file in named.values()}):
        if Path(name).name != name or not (directory / name).is_file():
            raise InvalidArgument(f"{INDEX} names {name[:128]!r}, which is not there")
        files.append(directory / name)
    return files


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InvalidArgument for anything else."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidArgument(f"there is no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path.name} is no JSON: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{path.name} holds no JSON object")
    return document


class StoredWeight:
    """A tensor in a file, which is read by `[...]`; transformers takes it for a slice of one."""

    def __init__(self, stored: Any, nbytes: int, read: Callable[[int], None]) -> None:
        self._stored = stored
        self._nbytes = nbytes
        self._read = read

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._stored[index]
        self._read(self._nbytes)
        return tensor

    def get_shape(self) -> list[int]:
        """Its shape."""
        return list(self._stored.get_shape())

    def get_dtype(self) -> str:
        """Its dtype in the words of the format."""
        return str(self._stored.get_dtype())


class StoredWeights:
    """All tensors of some files, as long as it is entered."""

    def __init__(self, files: list[Path], progress: Progress | None = None) -> None:
        self._files = files
        self._progress = progress
        self._lock = threading.Lock()
        self._open = ExitStack()
        self.headers = {file: read_header(file) for file in files}
        self.total = sum(one.nbytes for found in self.headers.values() for one in found.values())
        self.done = 0

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that most bytes have; float32 where there are none."""
        sizes = {"F32": 0, "F16": 0, "BF16": 0}
        for header in self.headers.values():
            for one in header.values():
                if one.dtype in sizes:
                    sizes[one.dtype] += one.nbytes
        names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return names[max(sizes, key=lambda name: sizes[name])]

    def __enter__(self) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        for file, header in self.headers.items():
            opened = self._open.enter_context(safe_open(file, framework="pt"))
            for name, one in header.items():
                tensors[name] = StoredWeight(opened.get_slice(name), one.nbytes, self._count)
        return tensors

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _count(self, nbytes: int) -> None:
        # Several threads read.
        with self._lock:
            self.done = min(self.done + nbytes, self.total)
            if self._progress is not None:
                self._progress(self.done, self.total)
