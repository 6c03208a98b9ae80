"""One encoder on one device: tokens in, vectors or logits out, whatever the lengths.

The rows of a batch are sorted by length and go through the model in calls of like lengths; what a
row gives does not depend on its neighbours.
"""

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.llm.encoders.folder import FolderFiles
from penstock_runtime.llm.encoders.heads import EmbeddingHead, check_finite
from penstock_runtime.llm.encoders.loading import load_module
from penstock_runtime.llm.encoders.packing import can_pack, pack
from penstock_runtime.llm.encoders.spec import EncoderSpec
from penstock_runtime.llm.encoders.splitting import split
from penstock_runtime.llm.encoders.task import EMBED
from penstock_runtime.llm.encoders.tokenizing import Tokens

_log = logging.getLogger("penstock.model")

# Padded tokens of one call, which bound what it allocates.
CALL_TOKENS_CPU = 16384
CALL_TOKENS_GPU = 131072
# Rows and tokens of the two calls by which the cost of a call is told from that of its tokens.
_PROBE_CPU = ((1, 8), (4, 32))
_PROBE_GPU = ((1, 8), (64, 128))
_TRIES = 3
# What another order of adding up may change, by the digits that there are.
_ALIKE = {torch.float32: 1e-4, torch.bfloat16: 0.05}


class Encoder:
    """The weights of an encoder on one device, and what comes after them; for any thread."""

    def __init__(
        self, source: ModelSource, spec: EncoderSpec, files: FolderFiles, device: torch.device
    ) -> None:
        self.spec = spec
        self.device = device
        self._loaded = load_module(source, spec, files, device)
        self.head = EmbeddingHead(source, spec, device) if spec.task == EMBED else None
        on_gpu = device.type == "cuda"
        self.max_tokens = spec.engine.max_batched_tokens or (
            CALL_TOKENS_GPU if on_gpu else CALL_TOKENS_CPU
        )
        self.call_tokens = spec.call_tokens
        words = self._loaded.module.get_input_embeddings().weight
        self._vocabulary = int(words.shape[0])
        self.packed = can_pack(device, self._loaded.dtype, spec.engine.cpu_kernels) and self._pack()

    @torch.inference_mode()
    def rows(self, tokens: Sequence[Tokens]) -> Tensor:
        """[rows, width] in float32 on the device: vectors before normalising, or logits."""
        lengths = [len(one) for one in tokens]
        calls = split(lengths, self.call_tokens, self.max_tokens)
        with _on(self.device):
            parts = [self._call([tokens[i] for i in call]) for call in calls]
            together = parts[0] if len(parts) == 1 else torch.cat(parts)
            found = torch.empty_like(together)
            found[torch.tensor([i for call in calls for i in call], device=self.device)] = together
            if self._loaded.dtype is torch.float16:
                check_finite(self.spec.model, found)
            return found

    def warm_up(self) -> None:
        """Call the model, and measure what a call costs beside its tokens unless that is given."""
        few, many = _PROBE_GPU if self.device.type == "cuda" else _PROBE_CPU
        longest = self.spec.max_tokens
        few, many = ((rows, min(length, longest)) for rows, length in (few, many))
        self._timed(*few)
        if self.spec.call_tokens:
            return
        self._timed(*many)
        quick = min(self._timed(*few) for _ in range(_TRIES))
        slow = min(self._timed(*many) for _ in range(_TRIES))
        self.call_tokens = _call_tokens(few[0] * few[1], quick, many[0] * many[1], slow)

    def tensors(self) -> list[Tensor]:
        """All that lies on the device."""
        return [*self._loaded.tensors(), *(self.head.tensors if self.head else ())]

    def _pack(self) -> bool:
        """Lay the linear layers out anew, if the model gives the same afterwards."""
        lengths = [min(length, self.spec.max_tokens) for length in (3, 7)]
        before = self._probed(lengths)
        undo = pack(self._loaded.module)
        try:
            alike = _ALIKE[self._loaded.dtype]
            if torch.allclose(self._probed(lengths), before, rtol=alike, atol=alike):
                return True
        # Whatever a model does with its layers, it works without.
        except Exception as error:
            _log.info("model '%s' keeps its linear layers: %s", self.spec.model, error)
        undo()
        return False

    def _timed(self, rows: int, length: int) -> float:
        started = time.perf_counter()
        self._probed([length] * rows)
        return time.perf_counter() - started

    def _probed(self, lengths: Sequence[int]) -> Tensor:
        """What the model gives for texts of these lengths."""
        ids = [(self.spec.pad_id + 1 + i) % self._vocabulary for i in range(max(lengths))]
        texts = [Tokens(ids[:n], [0] * n, False) for n in lengths]
        with torch.inference_mode(), _on(self.device):
            return self._call(texts).cpu()

    def _call(self, tokens: Sequence[Tokens]) -> Tensor:
        """One call of the model, filled up to its longest text."""
        lengths = np.array([len(one) for one in tokens])
        longest = int(lengths.max())
        filled = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        mask = self._moved(torch.from_numpy(filled))
        inputs = self._inputs(tokens, longest)
        # Without padding there is nothing to mask, and attention is faster for that.
        inputs["attention_mask"] = mask if int(lengths.min()) < longest else None
        given = self._loaded.module(**inputs)
        if self.head is None:
            return torch.as_tensor(given.logits).float()
        counts = mask.sum(1, keepdim=True).float()
        return self.head(given.last_hidden_state, mask[..., None].float(), counts)

    def _inputs(self, tokens: Sequence[Tokens], longest: int) -> dict[str, Any]:
        ids = self._padded([one.ids for one in tokens], self.spec.pad_id, longest)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._loaded.takes_types:
            inputs["token_type_ids"] = self._padded([one.types for one in tokens], 0, longest)
        if self._loaded.takes_cache:
            inputs["use_cache"] = False
        return inputs

    def _padded(self, rows: Sequence[Sequence[int]], fill: int, longest: int) -> Tensor:
        table = np.full((len(rows), longest), fill, np.int64)
        for place, row in zip(table, rows, strict=True):
            place[: len(row)] = row
        return self._moved(torch.from_numpy(table))

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def _call_tokens(few: int, quick: float, many: int, slow: float) -> int:
    """What a call costs beside its tokens, as a number of tokens, by two calls that were timed."""
    per_token = (slow - quick) / max(many - few, 1)
    if per_token <= 0:
        return many
    return max(1, min(round(quick / per_token) - few, 1 << 16))


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
