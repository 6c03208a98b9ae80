"""An encoder of the shape of BERT-base (Devlin et al. 2018), in half precision: 109 million
parameters, 128 tokens to one vector.
"""

import torch
from torch import Tensor, nn

from penstock import FP32, INT64, model

WIDTH, LENGTH = 768, 128


@model(max_batch_size=64)
class BertBase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30522, WIDTH)
        self.places = nn.Embedding(512, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 12, 3072, 0.0, "gelu", batch_first=True)
            for _ in range(12)
        )
        self.pooler = nn.Linear(WIDTH, WIDTH)
        self.half()

    def forward(self, IDS: INT64[LENGTH]) -> FP32[WIDTH].named("EMBEDDING"):
        x: Tensor = self.tokens(IDS % 30522) + self.places.weight[:LENGTH] + self.kinds.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.pooler(x[:, 0])).float()
