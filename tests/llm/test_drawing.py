"""Laws of tokens that nobody waits for: they are those that the sampler draws, and what it alone
can draw is left to it.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.host_launcher import HostLauncher, host_kernels
from tests.llm.sampling_fakes import RuleGrammar, row_of, sequence

from penstock_kernels.run import Reference
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.verify import Proposals
from penstock_runtime.llm.step import Row, StepPlan
from penstock_runtime.llm.transfers import Coming, down

VOCAB = 200
GREEDY = SamplingParams(temperature=0.0)
RANDOM = SamplingParams(temperature=0.8, top_k=20)


def sampler(device: bool = True, **more: Any) -> Sampler:
    held = DeviceSampler(host_kernels(HostLauncher(Reference()))) if device else None
    return Sampler(VOCAB, [2], device=held, **more)


def logits_of(plan: StepPlan, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # A model's vocabulary may be padded.
    return torch.randn(sum(row.logits for row in plan.rows), VOCAB + 8, generator=generator) * 3


def chunk(text: Sequence) -> Row:
    """A part of a prompt, behind which nothing is drawn."""
    return Row(text, 0, len(text.tokens) - 1)


@given(
    kinds=st.lists(st.sampled_from(["greedy", "random", "chunk"]), min_size=1, max_size=9),
    holes=st.sets(st.integers(0, 8), max_size=2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_the_tokens_are_those_of_the_sampler(kinds: list[str], holes: set[int], seed: int) -> None:
    """Row by row, with the error of a row whose logits are no numbers; each by its own seed."""
    texts = [
        sequence(RANDOM if kind == "random" else GREEDY, seed=i) for i, kind in enumerate(kinds)
    ]
    rows = tuple(
        chunk(text) if kind == "chunk" else row_of(text)
        for text, kind in zip(texts, kinds, strict=True)
    )
    plan = StepPlan(rows)
    logits = logits_of(plan, seed)
    for hole in holes & set(range(len(logits))):
        logits[hole] = float("nan")

    drawing = sampler().begin(plan, logits.clone())
    wanted = sampler().sample(plan, logits)

    drawn = [row.sequence for row in rows if row.samples]
    assert (drawing is None) == (not drawn)
    if drawing is None:
        return
    found = drawing.results()
    for one, other in zip(found, wanted, strict=True):
        assert (one.error is None) == (other.error is None)
        if other.error is None:
            assert one.tokens == other.tokens
        else:
            assert str(one.error) == str(other.error)
            assert not one.tokens
    for row, result in zip(rows, wanted, strict=True):
        if row.samples and result.error is None:
            at = drawing.feed.rows[row.sequence]
            assert drawing.feed.tokens[at] == result.tokens[0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, logprobs=0),
        SamplingParams(temperature=0.0, prompt_logprobs=0),
        SamplingParams(temperature=0.0, repetition_penalty=1.2),
        SamplingParams(temperature=0.0, frequency_penalty=0.2),
        SamplingParams(temperature=0.0, logit_bias={5: 1.0}),
        SamplingParams(temperature=0.0, allowed_token_ids=(5, 6)),
        SamplingParams(temperature=0.0, min_tokens=2),
        SamplingParams(temperature=0.9, typical_p=0.5),
    ],
)
def test_what_needs_more_than_its_logits_is_left_to_the_sampler(params: SamplingParams) -> None:
    """The whole step is: its tokens are wanted together."""
    plan = StepPlan((row_of(sequence(GREEDY)), row_of(sequence(params))))

    assert sampler().begin(plan, logits_of(plan)) is None


def test_so_are_grammars_drafts_and_draws_at_random_without_a_kernel() -> None:
    """Drafts are judged where their distributions are."""
    ruled, guessed = sequence(GREEDY), sequence(GREEDY)
    ruled.grammar = RuleGrammar(VOCAB, lambda told, token: True)
    guessed.drafts = [4]

    class Known:
        def distributions(self, sequence: Sequence) -> None:
            return None

    known: Proposals = Known()
    for text, by in (
        (ruled, sampler()),
        (guessed, sampler()),
        (sequence(RANDOM), sampler(device=False)),
        (sequence(GREEDY), sampler(proposals=known)),
    ):
        plan = StepPlan((row_of(text),))
        assert by.begin(plan, logits_of(plan)) is None


def test_a_floor_is_none_for_a_token_behind_one_that_is_foreseen() -> None:
    """Until the host knows that the floor was reached, the sampler draws."""
    text = sequence(SamplingParams(temperature=0.0, min_tokens=1))
    text.tokens.append(0)
    text.foreseen = 1
    plan = StepPlan((Row(text, 3, 1, 0, 1, True),))
    by = sampler()

    ahead = by.begin(plan, logits_of(plan))
    text.foreseen = 0

    assert ahead is None
    assert by.begin(plan, logits_of(plan)) is not None


def test_nothing_moves_on_a_cpu() -> None:
    """Down and up it is the same memory."""
    array = torch.arange(6).numpy()

    tensor = down(array, torch.device("cpu"))
    array[0] = 9

    assert Coming(tensor).wait()[0] == 9
