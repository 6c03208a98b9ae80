"""Answers one request with one response per element of IN: a generator is a stream."""

import time
from collections.abc import Iterator
from typing import TypedDict

from penstock import INT32, UINT32, Context, model


class Element(TypedDict):
    OUT: INT32[1]
    IDX: UINT32[1]


@model
def repeat(
    IN: INT32[-1], DELAY: UINT32[-1], WAIT: UINT32[1], context: Context
) -> Iterator[Element]:
    """DELAY are the milliseconds before each response; WAIT those before the next request."""
    began = time.monotonic()
    for index, (value, delay) in enumerate(zip(IN, DELAY, strict=True)):
        time.sleep(delay / 1000)
        if context.cancelled:
            return
        yield {"OUT": value, "IDX": index}
    time.sleep(max(0.0, began + WAIT[0] / 1000 - time.monotonic()))
