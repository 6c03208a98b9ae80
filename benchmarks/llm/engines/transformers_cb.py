"""transformers' continuous batching (`generate_batch`), as `turns` drives it."""

import logging
from typing import Any

import torch
from benchmarks.llm.engines.turns import Prompts, job, reply_channel, serve
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

_POOL_TOKENS = 8192


def main() -> None:
    """Serve turns."""
    replies, task = reply_channel(), job()
    logging.disable(logging.WARNING)
    torch.set_num_threads(task["threads"])
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[task["dtype"]]
    model: Any = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype).eval()
    model.set_attn_implementation("sdpa")
    batching = ContinuousBatchingConfig(
        block_size=task["block_size"],
        num_blocks=_POOL_TOKENS // task["block_size"],
        max_batch_tokens=task["max_batched_tokens"],
        use_cuda_graph=False,
        use_async_batching=False,
    )

    def generate(prompts: Prompts, count: int) -> Prompts:
        how = GenerationConfig(
            max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        found = model.generate_batch(
            inputs=prompts,
            generation_config=how,
            continuous_batching_config=batching,
            progress_bar=False,
        )
        by_prompt = {tuple(answer.prompt_ids): answer.generated_tokens for answer in found.values()}
        return [list(by_prompt[tuple(prompt)]) for prompt in prompts]

    serve(replies, generate)


if __name__ == "__main__":
    main()
