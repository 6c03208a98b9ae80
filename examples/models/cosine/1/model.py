"""How alike two vectors are: 1 for one direction, 0 for nothing in common."""

import numpy as np

from penstock import FP32, model


@model(max_batch_size=32)
def cosine(FIRST: FP32[-1], SECOND: FP32[-1]) -> FP32[1].named("LIKENESS"):
    lengths = np.linalg.norm(FIRST, axis=1) * np.linalg.norm(SECOND, axis=1)
    products = (FIRST * SECOND).sum(axis=1)
    return (products / np.maximum(lengths, 1e-12))[:, None]
