"""all-MiniLM-L6-v2 from text on one thread: what length-aware batching of a real model gains."""

import torch
from minilm import MiniLM

from penstock import BYTES, FP32, ModelArgs, model

torch.set_num_threads(1)


@model(max_batch_size=32, batching={"length_batching": {"input": ["TEXT"], "max_padding": 0.5}})
class Embed:
    def load(self, args: ModelArgs) -> None:
        self.net = MiniLM(args.directory, args.device)

    def warmup(self) -> None:
        self.net.embed(["warm", "up now"])

    def predict(self, TEXT: BYTES[1]) -> FP32[384].named("EMBEDDING"):
        return self.net.embed([text.decode() for text in TEXT[:, 0]])
