"""A hundred responses to each request: what a response of a stream costs."""

from collections.abc import Iterator

from penstock import FP32, model


@model
def stream(INPUT0: FP32[-1, -1]) -> Iterator[FP32[-1, -1]]:
    for _ in range(100):
        yield INPUT0
