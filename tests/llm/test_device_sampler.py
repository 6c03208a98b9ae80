"""Laws of draws by the kernel: the tokens are those of the host, whatever else is in the step."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler
from tests.llm.host_launcher import HostLauncher, host_kernels
from tests.llm.sampling_fakes import RuleGrammar, row_of, sequence

from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference
from penstock_kernels.sample import SAMPLE
from penstock_kernels.verify import VERIFY_MATCH, VERIFY_REJECT
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.penalties import TokenCounts, penalise
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.speculative.verify import match, reject
from penstock_runtime.llm.step import StepPlan

VOCAB = 600
HOSTS = [
    pytest.param(Reference(), id="reference"),
    pytest.param(Emulated(CACHE, order=5), id="emulated", marks=needs_compiler),
]
# Cuts that leave no more than the host's head; the last two are not the kernel's.
SETTINGS = [
    SamplingParams(temperature=0.7, top_k=20),
    SamplingParams(temperature=1.0, top_p=0.5, top_k=70),
    SamplingParams(temperature=1.3, min_p=0.2),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.9, top_k=5, repetition_penalty=1.3),
    SamplingParams(temperature=1.0, top_k=9, typical_p=0.8),
]


def sampler(host: Any = None) -> tuple[Sampler, HostLauncher]:
    launcher = HostLauncher(host)
    device = DeviceSampler(host_kernels(launcher)) if host else None
    return Sampler(VOCAB, device=device), launcher


def spread_logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("host", HOSTS)
def test_the_kernel_draws_what_the_host_draws(host: Any) -> None:
    """Rows of all kinds and with drafts, in one step: token for token, in one launch."""
    texts = [sequence(params, seed=100 + i) for i, params in enumerate(SETTINGS * 4)]
    texts[0].drafts, texts[1].drafts = [5, 6], [7]
    plan = StepPlan(tuple(row_of(text) for text in texts))
    logits = spread_logits(sum(row.logits for row in plan.rows), 1)
    plain, (device, launcher) = sampler()[0], sampler(host)

    expected = [result.tokens for result in plain.sample(plan, logits.clone())]
    found = [result.tokens for result in device.sample(plan, logits)]

    assert found == expected
    assert launcher.calls == {"sample": 1}


@pytest.mark.parametrize("host", HOSTS)
def test_grammars_leave_the_kernel_what_they_leave_the_host(host: Any) -> None:
    """Their masks are applied where the logits are; rows beside them are drawn as ever."""
    texts = [[sequence(params, seed=i) for i, params in enumerate(SETTINGS)] for _ in range(2)]
    for text in (texts[0][0], texts[0][3], texts[1][0], texts[1][3]):
        text.grammar = RuleGrammar(VOCAB, lambda told, token: token % 7 == 3)
    logits = spread_logits(len(SETTINGS), 4)
    plain, (device, launcher) = sampler()[0], sampler(host)

    expected, found = (
        [r.tokens for r in by.sample(StepPlan(tuple(map(row_of, of))), logits.clone())]
        for by, of in ((plain, texts[0]), (device, texts[1]))
    )

    assert found == expected
    assert found[0][0] % 7 == found[3][0] % 7 == 3
    assert launcher.calls == {"sample": 1, "token_bitmask": 1}


def test_a_row_without_numbers_fails_alone() -> None:
    texts = [sequence(SETTINGS[0], seed=i) for i in range(3)]
    plan = StepPlan(tuple(row_of(text) for text in texts))
    logits = spread_logits(3, 2)
    logits[1, 40] = torch.nan

    results = sampler(Reference())[0].sample(plan, logits)

    assert [result.error is not None for result in results] == [False, True, False]
    assert "no finite highest" in str(results[1].error)


@pytest.mark.parametrize("host", HOSTS)
def test_penalties_of_the_kernel_are_those_of_the_host(host: Any) -> None:
    """Repetition of the prompt and what came after, presence and frequency of what came after."""
    params = SamplingParams(
        temperature=0, repetition_penalty=1.7, presence_penalty=0.6, frequency_penalty=0.4
    )
    prompt, written = [1, 2, 2, 70], [2, 5, 5, 5]
    counts = TokenCounts(prompt, VOCAB)
    for token in written:
        counts.push(token)
    expected = spread_logits(1, 3)
    logits = expected.clone()
    penalise(expected, [counts.seen(0, params)])
    launcher = HostLauncher(host)
    # Each token in turn is all that is allowed: its logprob is then 0, so two are.
    bits = np.zeros((VOCAB, -(-VOCAB // 32)), np.uint32)
    for token in range(VOCAB):
        bits[token, token // 32] |= np.uint32(1 << token % 32)
        bits[token, 0] |= np.uint32(1)
    found = _sampled(launcher, logits.expand(VOCAB, -1).contiguous(), bits, prompt, written, params)

    pairs = torch.stack([expected[0, 0].expand(VOCAB), expected[0]], 1)
    best = pairs.max(1)
    pairs[0, 1] = -torch.inf
    wanted = best.values - pairs.logsumexp(1)
    assert np.allclose(found, wanted.numpy(), atol=1e-4)


def _sampled(
    launcher: HostLauncher,
    logits: torch.Tensor,
    allowed: Any,
    prompt: list[int],
    written: list[int],
    params: SamplingParams,
) -> Any:
    """The logprob of each row's likeliest token, by the kernel."""
    rows = len(logits)
    before = np.zeros(allowed.shape, np.uint32)
    for token in prompt:
        before[:, token // 32] |= np.uint32(1 << token % 32)
    counts = np.tile(np.bincount(written, minlength=VOCAB).astype(np.int32), (rows, 1))
    floats = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0}
    floats["repetition"] = params.repetition_penalty
    floats["presence"] = params.presence_penalty
    floats["frequency"] = params.frequency_penalty
    logprob = np.zeros(rows, np.float32)
    launcher.run(
        SAMPLE,
        {
            "logits": logits,
            "counts": counts,
            "prompt": before,
            "allowed": allowed,
            **{name: np.full(rows, value, np.float32) for name, value in floats.items()},
            "top_k": np.zeros(rows, np.int32),
            "seed": np.zeros(rows, np.int64),
            "step": np.zeros(rows, np.int64),
            "token": np.zeros(rows, np.int32),
            "logprob": logprob,
        },
    )
    return logprob


@pytest.mark.parametrize("host", HOSTS)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), sharp=st.booleans())
def test_drafts_are_rejected_by_the_kernel_as_by_the_engine(
    host: Any, seed: int, sharp: bool
) -> None:
    """The same drafts stand, and the same token follows."""
    random = np.random.default_rng(seed)
    depth, vocabulary = int(random.integers(1, 5)), int(random.choice([3, 40, 700]))
    p, q = (
        random.dirichlet(np.full(vocabulary, 0.2 if sharp else 2.0), (1, depth + more)).astype(
            np.float32
        )
        for more in (1, 0)
    )
    draft = [int(random.choice(vocabulary, p=row / row.sum())) for row in q[0].astype(float)]
    places = int(random.integers(1, depth + 2))
    call = {
        "p": p,
        "q": q,
        "draft": np.array([draft], np.int32),
        "places": np.array([places], np.int32),
        "drafts": np.array([depth], np.int32),
        "bonus": np.array([1], np.int32),
        "seed": np.array([seed - 2**31]),
        "position": np.array([seed % 1000]),
        "tokens": np.zeros((1, depth + 1), np.int32),
        "count": np.zeros(1, np.int32),
    }

    host.run(VERIFY_REJECT, call)

    exact = torch.from_numpy(p[0, :places]).double()
    expected = reject(exact, torch.from_numpy(q[0]), draft, 1, seed - 2**31, seed % 1000)
    assert call["tokens"][0, : call["count"][0]].tolist() == expected


@pytest.mark.parametrize("host", HOSTS)
def test_drafts_are_matched_by_the_kernel_as_by_the_engine(host: Any) -> None:
    random = np.random.default_rng(5)
    drawn = random.integers(0, 3, (40, 5)).astype(np.int32)
    draft = random.integers(0, 3, (40, 4)).astype(np.int32)
    tokens, count = np.zeros_like(drawn), np.zeros(40, np.int32)
    places = np.full(40, 5, np.int32)

    host.run(
        VERIFY_MATCH,
        {"drawn": drawn, "draft": draft, "places": places, "tokens": tokens, "count": count},
    )

    for row in range(40):
        expected = match(drawn[row].tolist(), draft[row].tolist())
        assert tokens[row, : count[row]].tolist() == expected
