"""Laws of the sampler: draws are those of the softmax, and a row's draw is its own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.kernels.executor import CACHE, needs_compiler
from tests.kernels.law import FLOATS
from tests.kernels.laws_sample import Arguments, final, may_be_drawn, sampling, samplings

from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.registry import kernel
from penstock_kernels.run import Reference, Runner

RUNNERS = [
    pytest.param(Reference(), id="reference"),
    pytest.param(Emulated(CACHE, order=3), id="emulated", marks=needs_compiler),
]
PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
DRAWS = 500
# Of chi-square with four, and with two, degrees of freedom: one of a million is greater.
RARE = {5: 33.4, 3: 27.6}


def drawn(runner: Runner, call: Arguments) -> Any:
    runner.run(kernel("sample"), call)
    return call["token"]


def rows_of(row: Any, count: int, dtype: Any = np.float32) -> Any:
    return np.tile(np.asarray(row, np.float64), (count, 1)).astype(dtype)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("kept", [5, 3])
def test_draws_are_distributed_as_the_softmax_of_what_is_kept(runner: Runner, kept: int) -> None:
    """Chi-square of five hundred seeds, with and without a cut."""
    top_k = np.full(DRAWS, kept, np.int32)

    tokens = drawn(runner, sampling(rows_of(np.log(PROBABILITIES), DRAWS), top_k=top_k))

    expected = PROBABILITIES[:kept] / PROBABILITIES[:kept].sum() * DRAWS
    found = np.bincount(tokens, minlength=5)
    assert found[kept:].sum() == 0
    assert ((found[:kept] - expected) ** 2 / expected).sum() < RARE[kept]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_row_draws_the_same_wherever_it_stands(runner: Runner) -> None:
    """Seed and step decide, not the batch: alone, first or last, the token is the same."""
    logits = np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)
    seed, step = np.arange(6) * 7919, np.arange(6) + 2**33
    together = drawn(runner, sampling(logits, seed=seed, step=step)).tolist()

    alone = [
        int(
            drawn(runner, sampling(logits[i : i + 1], seed=seed[i : i + 1], step=step[i : i + 1]))[
                0
            ]
        )
        for i in range(6)
    ]
    backwards = drawn(
        runner, sampling(logits[::-1].copy(), seed=seed[::-1].copy(), step=step[::-1].copy())
    ).tolist()

    assert alone == together == backwards[::-1]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("changes", ["seed", "step"])
def test_another_seed_or_step_draws_anew(runner: Runner, changes: str) -> None:
    """Steps of one seed, and seeds of one step, do not repeat each other."""
    call = sampling(rows_of([0.0] * 64, 50), seed=np.zeros(50, np.int64))
    call[changes] = np.arange(50)

    assert len(set(drawn(runner, call).tolist())) > 20


@needs_compiler
@settings(max_examples=25)
@given(samplings(FLOATS))
def test_the_source_draws_what_the_reference_draws(call: Arguments) -> None:
    """The same noise on the same logits; only at a cut's very edge may they differ."""
    answers = [
        drawn(runner, call | {name: call[name].copy() for name in ("token", "logprob")})
        for runner in (Reference(), Emulated(CACHE))
    ]

    for row, (one, other) in enumerate(zip(*answers, strict=True)):
        if one != other:
            x = final(call, row)
            loose, tight = (may_be_drawn(x, call, row, slack) for slack in (1e-4, -1e-4))
            assert (loose != tight).any()


def test_philox_is_the_one_of_the_paper() -> None:
    """The known answer of philox4x32-10 for counter and key zero: its first word is 0x6627e8d5."""
    from penstock_kernels.sample import _uniform

    found = float(_uniform(np.zeros(1, np.int64), 0, 0)[0])

    assert found == ((0x6627E8D5 >> 9) + 0.5) * 2**-23


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_is_masked_is_never_drawn(runner: Runner) -> None:
    """However likely it is: one allowed token is the token."""
    allowed = np.array([[0, 4]] * 3, np.uint32)
    logits = rows_of([9.0] * 34 + [-9.0], 3, np.float16)

    assert drawn(runner, sampling(logits, allowed=allowed)).tolist() == [34] * 3
