"""Sentences to vectors whose dot product is their likeness in meaning.

Requests that wait together are batched by the length of their texts, so that short ones do not sit
in the batch of a long one. The weights are loaded once per device and shared by all instances.
"""

import os

import torch
from minilm import MiniLM

from penstock import BYTES, FP32, ModelArgs, model

# Generous, since the model itself computes nothing on padding: full batches matter more.
LIKE_LENGTHS = {"length_batching": {"input": ["TEXT"], "max_padding": 0.5}}


@model(max_batch_size=32, batching=LIKE_LENGTHS)
class Embedder:
    shared: MiniLM

    @staticmethod
    def load_shared(args: ModelArgs) -> MiniLM:
        if not os.environ.get("OMP_NUM_THREADS"):
            # One core is the server's.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
        return MiniLM(args.directory, args.device)

    def warmup(self) -> None:
        self.shared.embed(["a first text", "and a longer one, so that everything has run once"])

    def predict(self, TEXT: BYTES[1]) -> FP32[384].named("EMBEDDING"):
        texts = [text.decode(errors="replace") for text in TEXT[:, 0]]
        return self.shared.embed(texts)
