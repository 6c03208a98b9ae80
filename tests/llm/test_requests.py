"""What requests may say of prompts, tensors and numbers, and what answers look like then."""

import json
from typing import Any

import numpy as np
import pytest
from tests.llm.engine_driver import Task, Words
from tests.llm.test_scribe import EVERYTHING, VOCAB, driver_of, whole_text

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.asking import read_ask
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.preparing import Preparer
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.request import InferRequest, RequestedOutput


def test_several_prompts_are_answered_together_in_order() -> None:
    """Each with its choices, as if it had been asked alone; so they are without being asked not to
    stream.
    """
    driver = driver_of()
    prompts = ["1 2 3", "4 5", "6"]
    alone = [whole_text([int(w) for w in prompt.split()], 4) for prompt in prompts]

    task = Task(
        InferRequest("tiny", (), outputs=tuple(map(RequestedOutput, EVERYTHING))),
        {
            "text_input": np.array([p.encode() for p in prompts], dtype=object),
            "sampling_parameters": np.array([b'{"n": 2, "temperature": 0, "max_tokens": 4}']),
        },
    )
    driver.engine.submit(driver.preparer.prepare(task))
    driver.run()

    (answer,) = task.answers
    assert [text.decode().split() for text in answer["text_output"]] == [
        words for words in alone for _ in range(2)
    ]
    assert answer["index"].tolist() == list(range(6))
    assert answer["num_input_tokens"].tolist() == [3, 2, 1]
    assert answer["num_output_tokens"].tolist() == [4] * 6
    assert [len(json.loads(entry)) for entry in answer["prompt_logprobs"]] == [3, 2, 1]


def test_a_prompt_goes_before_its_answer_once() -> None:
    """Where the model or the request wants it, streamed or not, for each choice."""
    options = EngineOptions(echo=True)
    driver = driver_of(options=options)

    streamed = driver.ask([1, 2], n=2, max_tokens=3)
    whole = driver.ask([1, 2], max_tokens=3, stream=False)
    driver.run()

    texts = [
        "".join(a["text_output"][0].decode() for a in streamed.task.answers if a["index"][0] == k)
        for k in range(2)
    ]
    assert texts == [whole.task.text] * 2
    assert whole.task.text.startswith("1 2 ")
    assert whole.task.text.count("1 2 ") == 1


def test_batched_tensors_have_a_leading_dimension_of_one() -> None:
    """As clients of TensorRT-LLM's ensemble send them and take them."""
    driver = driver_of()
    driver.preparer = Preparer(
        EngineOptions(), Words(), 256, VOCAB, batched=True, clock=driver.clock
    )

    task = Task(
        InferRequest("tiny", (), single=True),
        {
            "text_input": np.array([[b"1 2 3"]], dtype=object),
            "max_tokens": np.array([[4]], np.int32),
            "temperature": np.array([[0.0]], np.float32),
            "bad_words": np.array([[b""]], dtype=object),
            "stop_words": np.array([[b""]], dtype=object),
            "beam_width": np.array([[1]], np.int32),
            "seed": np.array([[(1 << 64) - 1]], np.uint64),
            "stream": np.array([[False]]),
            "return_log_probs": np.array([[True]]),
        },
    )
    driver.engine.submit(driver.preparer.prepare(task))
    driver.run()

    (answer,) = task.answers
    assert answer["text_output"].shape == (1, 1)
    assert answer["text_output"][0, 0].decode().split() == whole_text([1, 2, 3], 4)
    assert answer["cumulative_logprob"].shape == (1, 1)


# -- what requests may say -------------------------------------------------------------------------


def ask_of(sampling: str, **arrays: Any) -> SamplingParams:
    given = {
        "input_ids": np.array([1, 2]),
        "sampling_parameters": np.array([sampling.encode()], dtype=object),
        **arrays,
    }
    return read_ask(InferRequest("tiny", ()), given, SamplingParams()).params


def test_numbers_may_be_in_quotes_as_clients_of_tritons_vllm_backend_send_them() -> None:
    """Its own example client does."""
    params = ask_of('{"temperature": "0.1", "top_p": "0.95", "max_tokens": "100", "n": "2"}')
    flags = ask_of('{"ignore_eos": "True", "stop": "5", "regex": "7"}')

    assert (params.temperature, params.top_p, params.max_tokens, params.n) == (0.1, 0.95, 100, 2)
    assert flags.ignore_eos
    assert flags.stop == ("5",)
    with pytest.raises(InvalidArgument, match="'temperature' is 'warm'"):
        ask_of('{"temperature": "warm"}')


def test_a_seed_of_64_bits_is_taken_whatever_its_sign() -> None:
    """A tensor of seeds is unsigned."""
    driver = driver_of()

    params = ask_of("{}", seed=np.array([(1 << 64) - 2], np.uint64))
    asked = driver.ask([1, 2], seed=(1 << 63) - 1, n=3, temperature=1.0, max_tokens=3)
    driver.run()

    assert params.seed == -2
    assert asked.task.error is None


@pytest.mark.parametrize(("kept", "left"), [(4, 4), (-1, 22), (100, None)])
def test_the_end_of_a_prompt_may_be_all_that_counts(kept: int, left: int | None) -> None:
    """A number of its tokens, or (-1) as many as leave room for the answer."""
    driver = driver_of(blocks=8, size=4)
    prompt = [k % 60 for k in range(50)]
    if left is None:
        with pytest.raises(InvalidArgument, match="50 tokens"):
            driver.ask(prompt, max_tokens=10, truncate_prompt_tokens=kept)
        return

    asked = driver.ask(prompt, max_tokens=10, truncate_prompt_tokens=kept)
    driver.run()

    assert asked.generation.choices[0].sequence.tokens[:left] == prompt[-left:]
    assert asked.generation.n_prompt == left
    assert len(asked.ids) == 10
