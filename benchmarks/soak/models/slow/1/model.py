"""Takes its time, and more of it than one could know for what begins below zero."""

import time

from penstock import FP32, model


@model
def slow(INPUT0: FP32[-1, -1]) -> FP32[-1, -1]:  # noqa: N803
    time.sleep(0.06 if INPUT0[0, 0] < 0 else 0.01)
    return INPUT0
