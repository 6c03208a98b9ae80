"""A small model's drafts: it keeps up with every text, in a pool of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.llm.sampling_fakes import TableModel, assert_drawn_from, exact, generate, sequence

from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.draft import DraftProposer
from penstock_runtime.llm.step import StepPlan

VOCAB = 100
BLOCK = 4


class PagedTable(TableModel):
    """Holds the tokens that were computed in blocks, and reads them from there."""

    def __init__(self, n_blocks: int, noise: float = 0.0) -> None:
        super().__init__(VOCAB)
        self.table += torch.randn(257, VOCAB, generator=torch.Generator().manual_seed(1)) * noise
        self.pool = [-1] * (n_blocks * BLOCK)
        self.most = 0

    def run(self, plan: StepPlan) -> torch.Tensor:
        self.most = max(self.most, plan.n_tokens)
        for row in plan.rows:
            text = row.sequence
            for place, token in enumerate(row.tokens, row.start):
                self.pool[text.blocks[place // BLOCK] * BLOCK + place % BLOCK] = token
            held = [
                self.pool[text.blocks[place // BLOCK] * BLOCK + place % BLOCK]
                for place in range(row.start + row.count)
            ]
            assert held == text.tokens[: row.start] + row.tokens
        return super().run(plan)


def proposer(model: PagedTable, tokens: int = 4, budget: int = 7) -> DraftProposer:
    return DraftProposer(
        model,
        vocab_size=VOCAB,
        n_blocks=len(model.pool) // BLOCK,
        block_size=BLOCK,
        tokens=tokens,
        max_batched_tokens=budget,
    )


def texts() -> list[Sequence]:
    asked = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.6, seed=1),
        SamplingParams(temperature=0.9, top_p=0.8, seed=2, frequency_penalty=0.5),
        SamplingParams(temperature=0, repetition_penalty=1.5),
    ]
    return [sequence(params, range(3 + i * 4), seed=i) for i, params in enumerate(asked)]


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_a_text_with_a_seed_is_the_same_whatever_is_proposed(noise: float) -> None:
    """By the same model, by one much like it, by one that is nothing like it."""
    model = TableModel(VOCAB)
    plain, drafted = texts(), texts()
    draft = PagedTable(200, noise)
    drafts, speculating = proposer(draft), Sampler(VOCAB)

    steps = generate(Sampler(VOCAB), model, plain)
    fewer = generate(speculating, model, drafted, drafts)

    assert [text.tokens for text in drafted] == [text.tokens for text in plain]
    assert draft.most <= 7
    if noise < 1:
        assert fewer < steps
    for text in drafted:
        drafts.forget(text)
        drafts.forget(text)
    assert repr(drafts) == "<DraftProposer 0 sequences, 200 free blocks>"


def test_the_same_model_foresees_every_token() -> None:
    """Greedy or with a seed, since it draws with the same noise."""
    one = Sampler(VOCAB)
    some = texts()[:2]

    generate(one, TableModel(VOCAB), some, proposer(PagedTable(200)))

    assert one.speculation.accepted_tokens == one.speculation.draft_tokens > 0


def test_without_a_seed_the_distribution_is_preserved() -> None:
    """First and second token of many texts, drafted by a model of another opinion."""
    params, count = SamplingParams(temperature=1.2, top_k=6), 2000
    model, draft = TableModel(VOCAB), PagedTable(count * 3, 1.0)
    drafts = proposer(draft, tokens=1, budget=6 * count)
    one = Sampler(VOCAB, proposals=drafts)
    some = [sequence(params, (1, 2, 3), seed=i, max_tokens=4) for i in range(count)]
    for text in some:
        text.n_computed = 2

    generate(one, model, some, drafts)

    assert 0.3 < one.speculation.accepted_tokens / one.speculation.draft_tokens < 0.95
    first = model.table[(3 * 31 + 2 * 17) % 257].numpy()
    assert_drawn_from([text.tokens[3] for text in some], exact(first, params))
    likeliest = int(np.argmax(first))
    second = model.table[(likeliest * 31 + 3 * 17) % 257].numpy()
    followers = [text.tokens[4] for text in some if text.tokens[3] == likeliest]
    assert_drawn_from(followers, exact(second, params))


def test_a_sequence_that_finds_no_room_gets_no_drafts() -> None:
    """The others keep theirs, and it gets some when there is room again."""
    drafts = proposer(PagedTable(5))
    small, large = (sequence(SamplingParams(temperature=0), range(n)) for n in (4, 12))
    for text in (small, large):
        text.n_computed = len(text.tokens) - 1

    drafts.propose([small, large])
    assert (len(small.drafts), len(large.drafts)) == (4, 0)
    assert drafts.distributions(small) is None
    drafts.forget(small)
    drafts.propose([large])

    assert len(large.drafts) == 4


@pytest.mark.parametrize("width", [VOCAB - 20, VOCAB + 20])
def test_a_vocabulary_that_is_padded_otherwise_does_no_harm(width: int) -> None:
    """What only one of the models has is never proposed, or never accepted."""
    draft = PagedTable(200)
    draft.table = torch.nn.functional.pad(draft.table, (0, width - VOCAB), value=9.0)
    plain, drafted = texts(), texts()
    for text in drafted:
        text.params = replace(text.params, seed=None)
    drafts = proposer(draft)

    generate(Sampler(VOCAB), TableModel(VOCAB), plain)
    generate(Sampler(VOCAB, proposals=drafts), TableModel(VOCAB), drafted, drafts)

    assert [drafted[i].tokens == plain[i].tokens for i in (0, 3)] == [True, True]
    assert all(text.n_left <= 0 for text in drafted)
