"""vLLM's engine by itself, as `turns` drives it; run by the Python of its own environment."""

import os

from benchmarks.llm.engines.turns import Prompts, job, reply_channel, serve


def main() -> None:
    """Serve turns."""
    replies, task = reply_channel(), job()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=task["model"],
        dtype={"bf16": "bfloat16", "fp32": "float32"}[task["dtype"]],
        max_model_len=1024,
        max_num_seqs=64,
        max_num_batched_tokens=task["max_batched_tokens"],
        enable_chunked_prefill=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        block_size=32,
        disable_log_stats=True,
    )

    def generate(prompts: Prompts, count: int) -> Prompts:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        how = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        found = engine.generate(asked, how, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in found]

    serve(replies, generate)


if __name__ == "__main__":
    main()
