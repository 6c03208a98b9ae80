"""Language models: a continuous batcher over a paged KV cache, and all that is around it."""
