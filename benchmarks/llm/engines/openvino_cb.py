"""OpenVINO GenAI's continuous batching, as `turns` drives it; run by the Python of its own
environment. It reads the model as GGUF.
"""

import numpy as np
import openvino
import openvino_genai
from benchmarks.llm.engines.turns import Prompts, job, reply_channel, serve


def main() -> None:
    """Serve turns."""
    replies, task = reply_channel(), job()
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = 1
    scheduling.max_num_batched_tokens = task["max_batched_tokens"]
    scheduling.enable_prefix_caching = False
    properties = {
        "INFERENCE_NUM_THREADS": task["threads"],
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[task["dtype"]],
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        task["gguf"], scheduling, "CPU", properties
    )

    def generate(prompts: Prompts, count: int) -> Prompts:
        asked = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        how = openvino_genai.GenerationConfig()
        how.max_new_tokens = count
        how.ignore_eos = True
        how.do_sample = False
        found = pipeline.generate(asked, [how] * len(asked))
        return [list(answer.m_generation_ids[0]) for answer in found]

    serve(replies, generate)


if __name__ == "__main__":
    main()
