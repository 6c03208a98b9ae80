"""784-1024-1024-10 with random weights on one thread: what batching gains."""

import numpy as np
import torch
from torch import nn

from penstock import FP32, model

torch.set_num_threads(1)


@model(max_batch_size=64, batching=False)
class Mlp:
    def load(self) -> None:
        torch.manual_seed(0)
        first, second, last = nn.Linear(784, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 10)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).eval()

    def warmup(self) -> None:
        for rows in (1, 8, 64):
            self.predict(np.zeros((rows, 784), np.float32))

    @torch.inference_mode()
    def predict(self, INPUT0: FP32[784]) -> FP32[10]:
        # torch takes no read-only memory, which the bytes of a single request are.
        return self.net(torch.from_numpy(np.require(INPUT0, requirements="W")))
