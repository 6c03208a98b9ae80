"""Random numbers are the published ones, and those that the kernel draws."""

import numpy as np
import pytest
import torch

from penstock_kernels.sample import SAMPLE
from penstock_runtime.llm.cuts import Cuts, cut
from penstock_runtime.llm.philox import Stream, philox, uniforms
from penstock_runtime.llm.race import race
from penstock_runtime.llm.sampling_params import SamplingParams

# From the known answers of Random123, the authors' own code: counter, key, words.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_the_published_ones(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """Philox 4x32-10 as its authors give it."""
    c0, c1, c2, c3 = (np.array([number], np.uint64) for number in counter)
    k0, k1 = (np.array([number], np.uint64) for number in key)

    assert tuple(int(word[0]) for word in philox((c0, c1, c2, c3), (k0, k1))) == words


def test_the_kernel_draws_the_same_tokens() -> None:
    """Same seed, same text, on whichever device, as long as the cuts leave a head's worth."""
    rows, vocabulary = 200, 300
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (rows, vocabulary)).astype(np.float32)
    params = [
        SamplingParams(
            temperature=float(rng.uniform(0.3, 2)),
            top_k=int(rng.integers(1, 60)),
            top_p=float(rng.choice([0.5, 0.9, 1.0])),
            min_p=float(rng.choice([0, 0.02])),
        )
        for _ in range(rows)
    ]
    seeds = [int(seed) for seed in rng.integers(0, 2**63, rows)]
    positions = [int(position) for position in rng.integers(0, 2**34, rows)]
    cuts = Cuts.of(params)
    ones, zeros = np.ones(rows, np.float32), np.zeros(rows, np.float32)
    tokens, logprobs = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
    numbers = np.array(seeds), np.array(positions)
    shape = cuts.temperature, cuts.top_k.astype(np.int32), cuts.top_p, cuts.min_p

    SAMPLE.reference(
        logits, None, None, None, *shape, ones, zeros, zeros, *numbers, tokens, logprobs
    )

    assert race(cut(torch.from_numpy(logits), cuts), seeds, positions) == tokens.tolist()


def test_uniform_numbers_are_uniform_and_streams_differ() -> None:
    """Between 0 and 1, even in each tenth, and unlike those of another purpose."""
    first, second = uniforms([3] * 20_000, range(20_000), Stream.TAIL)
    other, _ = uniforms([3] * 20_000, range(20_000), Stream.ACCEPT)

    for numbers in (first, second, other):
        assert numbers.min() > 0
        assert numbers.max() < 1
        assert np.abs(np.histogram(numbers, 10, (0, 1))[0] - 2000).max() < 200
    assert np.abs(np.corrcoef([first, second, other]) - np.eye(3)).max() < 0.03
