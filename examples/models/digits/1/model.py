"""A small convolutional network for handwritten digits of 8x8 points.

The weights lie beside this file, so the class needs no code for loading or serving: torch models
are executed in inference mode, and all instances of a device share one set of weights.
"""

import torch
from torch import Tensor, nn

from penstock import FP32, INT64, model


@model(max_batch_size=64, labels={"PROBABILITIES": "labels.txt"})
class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def logits(self, images: Tensor) -> Tensor:
        """[batch, 8, 8], values 0 to 16 -> [batch, 10]."""
        return self.layers(images.unsqueeze(1) / 16)

    def forward(
        self, IMAGE: FP32[8, 8]
    ) -> tuple[FP32[10].named("PROBABILITIES"), INT64[1].named("CLASS")]:
        probabilities = torch.softmax(self.logits(IMAGE), dim=1)
        return probabilities, probabilities.argmax(dim=1, keepdim=True)
