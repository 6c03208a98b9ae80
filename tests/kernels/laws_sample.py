"""The sampler's law: what may be drawn, worked out in float64 by sorting everything."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

Arguments = dict[str, Any]
# How far float32 may be from float64 at the edge of a cut, as a share.
SLACK = 1e-4


def sampling(logits: Any, **given: Any) -> Arguments:
    """A call without any cut or penalty, but for what is given."""
    rows = len(logits)
    floats = dict.fromkeys(("temperature", "top_p", "repetition"), 1.0)
    floats |= dict.fromkeys(("min_p", "presence", "frequency"), 0.0)
    call: Arguments = {"logits": logits, "counts": None, "prompt": None, "allowed": None}
    call |= {name: np.full(rows, value, np.float32) for name, value in floats.items()}
    call |= {"top_k": np.zeros(rows, np.int32), "step": np.zeros(rows, np.int64)}
    call |= {"seed": np.arange(rows, dtype=np.int64)}
    call |= {"token": np.zeros(rows, np.int32), "logprob": np.zeros(rows, np.float32)}
    return call | given


@st.composite
def samplings(draw: st.DrawFn, dtypes: Any) -> Arguments:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, vocabulary = draw(st.integers(1, 3)), draw(st.sampled_from([1, 31, 33, 600]))
    # A grid of values, so that many are equal and none nearly so.
    logits = random.integers(-24, 24, (rows, vocabulary)).astype(np.float32) / 4
    logits[random.random(logits.shape) < draw(st.sampled_from([0, 0.1, 1]))] = -np.inf
    words = random.integers(0, 2**32, (rows, -(-vocabulary // 32)), dtype=np.uint32)
    before = random.integers(0, 2**32, words.shape, dtype=np.uint32)
    counts = random.integers(0, 3, logits.shape).astype(np.int32)

    def each(*values: float) -> Any:
        return random.choice(np.array(values, np.float32), rows)

    return sampling(
        logits.astype(draw(st.sampled_from(dtypes))),
        counts=draw(st.sampled_from([None, counts])),
        prompt=draw(st.sampled_from([None, before])),
        allowed=draw(st.sampled_from([None, words])),
        temperature=each(0, 0.5, 1, 2),
        top_k=random.choice(np.array([0, 1, 3, 40, 1000], np.int32), rows),
        top_p=each(0.05, 0.5, 0.9, 1),
        min_p=each(0, 0, 0.03, 0.5),
        repetition=each(1, 1.5),
        presence=each(0, 0.5),
        frequency=each(0, 0.25),
        seed=random.integers(-(2**63), 2**63 - 1, rows),
        step=random.integers(0, 2**40, rows),
    )


def bit(words: Any, token: int) -> bool:
    return bool(int(words[token // 32]) >> token % 32 & 1)


def final(call: Arguments, row: int) -> Any:
    """The row's logits before any cut, token by token."""
    x = call["logits"][row].astype(np.float64)
    for token in range(x.size):
        written = 0 if call["counts"] is None else int(call["counts"][row, token])
        if written or (call["prompt"] is not None and bit(call["prompt"][row], token)):
            by = float(call["repetition"][row])
            x[token] = x[token] / by if x[token] > 0 else x[token] * by
        if written:
            x[token] -= float(call["frequency"][row]) * written + float(call["presence"][row])
        if call["allowed"] is not None:
            x[token] = x[token] if bit(call["allowed"][row], token) else -np.inf
    return x / float(call["temperature"][row]) if call["temperature"][row] > 0 else x


def may_be_drawn(x: Any, call: Arguments, row: int, slack: float) -> Any:
    """For each token whether no cut takes it, with edges moved outwards by `slack`."""
    p = np.exp(x - x.max())
    kept = (p >= float(call["min_p"][row]) * (1 - slack)) & (p > 0)
    above = np.array([(kept & (x > own)).sum() for own in x])
    top_k = int(call["top_k"][row])
    kept &= (above < top_k) | (top_k == 0)
    mass = np.array([p[kept & (x > own)].sum() for own in x])
    top_p = float(call["top_p"][row])
    return kept & ((mass < (top_p + slack) * p[kept].sum()) | (top_p >= 1))


def check_sampling(before: Arguments, after: Arguments) -> None:
    for row, (token, logprob) in enumerate(zip(after["token"], after["logprob"], strict=True)):
        x = final(before, row)
        if x.max() == -np.inf:
            assert (token, logprob) == (-1, -np.inf)
            continue
        exact = x[token] - x.max() - np.log(np.exp(x - x.max()).sum())
        assert abs(logprob - exact) <= 1e-4 * max(1.0, abs(exact))
        if before["temperature"][row] == 0:
            assert x[token] >= x.max() - 1e-5
        else:
            assert may_be_drawn(x, before, row, SLACK)[token]
