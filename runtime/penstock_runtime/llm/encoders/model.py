"""An encoder in memory: weights once per device, shared by all instances there."""

import threading
from collections.abc import Mapping

import torch

from penstock_runtime.backends.base import AnyExecutable, ModelSource, Placement
from penstock_runtime.backends.torch_program import limit_threads
from penstock_runtime.llm.encoders.completion import check_tensors
from penstock_runtime.llm.encoders.encoder import Encoder
from penstock_runtime.llm.encoders.folder import FolderFiles, find_files
from penstock_runtime.llm.encoders.instance import EncoderExecutable
from penstock_runtime.llm.encoders.spec import EncoderSpec, read_spec
from penstock_runtime.llm.encoders.tokenizing import TextTokenizer


class LoadedEncoder:
    """One version of an encoder."""

    def __init__(self, source: ModelSource, spec: EncoderSpec, files: FolderFiles) -> None:
        self._source = source
        self._spec = spec
        self._files = files
        self._tokenizer = TextTokenizer(spec, files.tokenizer)
        self._encoders: dict[str, Encoder] = {}
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> AnyExecutable:
        """A new instance on the device, warm; the first one there loads the weights."""
        # In the thread that executes: how many threads torch uses is said per thread.
        if self._spec.engine.threads:
            torch.set_num_threads(self._spec.engine.threads)
        encoder = self._encoder(placement.device)
        return EncoderExecutable(self._source.config, encoder, self._tokenizer)

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of weights and buffers per device; memory that two share is counted once."""
        storages: dict[tuple[str, int], int] = {}
        for encoder in list(self._encoders.values()):
            for tensor in encoder.tensors():
                place, size = _memory(tensor)
                storages[str(tensor.device), place] = size
        held: dict[str, int] = {}
        for (device, _), size in storages.items():
            held[device] = held.get(device, 0) + size
        return held

    def close(self) -> None:
        """Drop the weights; whoever retires the model returns their memory."""
        self._encoders.clear()

    def _encoder(self, device: str) -> Encoder:
        # Under the lock, so that of several instances that start at once only one loads.
        with self._lock:
            if device not in self._encoders:
                made = Encoder(self._source, self._spec, self._files, torch.device(device))
                made.warm_up()
                self._encoders[device] = made
            return self._encoders[device]


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's memory is and how large; a layout of oneDNN's hides both."""
    if tensor.is_mkldnn:
        return id(tensor), tensor.numel() * tensor.element_size()
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def load(source: ModelSource) -> LoadedEncoder:
    """The model, its tokenizer read; the weights come when the first instance asks."""
    limit_threads()
    spec = read_spec(source)
    check_tensors(source.config, spec)
    return LoadedEncoder(source, spec, find_files(source))
