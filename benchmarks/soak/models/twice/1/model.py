"""Twice the input, in batches: calls of it are never cancelled, so that executions can be told."""

from penstock import INT32, model


@model(max_batch_size=8, batching={"max_queue_delay_microseconds": 500})
def twice(INPUT0: INT32[4]) -> INT32[4]:  # noqa: N803
    return INPUT0 * 2
