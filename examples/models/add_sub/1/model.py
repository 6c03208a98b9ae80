"""The sum and the difference of two vectors of 16 integers. No configuration file is needed: the
annotations say it all, and outputs without a name are called OUTPUT0, OUTPUT1.
"""

from penstock import INT32, model


@model(max_batch_size=8)
def add_sub(INPUT0: INT32[16], INPUT1: INT32[16]) -> tuple[INT32[16], INT32[16]]:
    return INPUT0 + INPUT1, INPUT0 - INPUT1
