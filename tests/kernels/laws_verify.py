"""Laws of what decides over drafts, and of a grammar's mask."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.kernels.law import F32, FLOATS, SEEDS, Arguments, Law, normal


@st.composite
def matches(draw: st.DrawFn) -> Arguments:
    random = np.random.default_rng(draw(SEEDS))
    rows, depth = draw(st.sampled_from([1, 3, 300])), draw(st.integers(1, 5))
    drawn = random.integers(0, 2, (rows, depth + 1)).astype(np.int32)
    return {
        "drawn": drawn,
        "draft": random.integers(0, 2, (rows, depth)).astype(np.int32),
        "places": random.integers(0, depth + 2, rows).astype(np.int32),
        "tokens": np.zeros_like(drawn),
        "count": np.zeros(rows, np.int32),
    }


def check_match(before: Arguments, after: Arguments) -> None:
    """Draft by draft: the first that the model does not draw itself is the last."""
    for r, places in enumerate(before["places"].tolist()):
        wanted = []
        for i in range(places):
            wanted.append(int(before["drawn"][r, i]))
            if i == places - 1 or before["drawn"][r, i] != before["draft"][r, i]:
                break
        check_tokens(wanted, after, r)


def check_tokens(wanted: list[int], after: Arguments, row: int) -> None:
    assert after["count"][row] == len(wanted)
    rest = after["tokens"].shape[1] - len(wanted)
    assert after["tokens"][row].tolist() == wanted + [-1] * rest


def some_distributions(random: Any, shape: Any, share: float) -> Any:
    weights = random.random(shape) * (random.random(shape) < share)
    weights[..., 0] += 1e-3
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(F32)


@st.composite
def rejections(draw: st.DrawFn) -> Arguments:
    random = np.random.default_rng(draw(SEEDS))
    rows, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    vocabulary = draw(st.sampled_from([1, 5, 33, 700]))
    p = some_distributions(random, (rows, depth + 1, vocabulary), draw(st.sampled_from([0.1, 1])))
    q = some_distributions(random, (rows, depth, vocabulary), 0.7)
    if draw(st.booleans()):
        q = p[:, :depth].copy()
    tokens = np.zeros((rows, depth + 1), np.int32)
    return {
        "p": p,
        "q": q,
        "draft": random.integers(0, vocabulary, (rows, depth)).astype(np.int32),
        "places": random.integers(1, depth + 2, rows).astype(np.int32),
        "drafts": random.integers(0, depth + 1, rows).astype(np.int32),
        "bonus": random.integers(0, vocabulary, rows).astype(np.int32),
        "seed": random.integers(-(2**63), 2**63 - 1, rows),
        "position": random.integers(0, 2**40, rows),
        "tokens": tokens,
        "count": np.zeros(rows, np.int32),
    }


def check_rejection(before: Arguments, after: Arguments) -> None:
    """What stands had a chance to, and what takes a draft's place is likelier than it was."""
    for r, (tokens, count) in enumerate(zip(after["tokens"], after["count"], strict=True)):
        p, q, draft = before["p"][r], before["q"][r], before["draft"][r]
        known = int(min(before["drafts"][r], before["places"][r]))
        stood = [i for i in range(known) if i < count and tokens[i] == draft[i]]
        assert (tokens[count:] == -1).all()
        if count <= known and len(stood) < known:
            at = int(count) - 1
            assert stood[:at] == list(range(at))
            rest = np.maximum(p[at].astype(float) - q[at].astype(float), 0)
            assert (rest if rest.any() else p[at])[tokens[at]] > 0
            continue
        more = known < before["places"][r]
        assert tokens[:known].tolist() == draft[:known].tolist()
        assert count == known + more
        if more:
            assert tokens[known] == before["bonus"][r]


@st.composite
def masks(draw: st.DrawFn) -> Arguments:
    random = np.random.default_rng(draw(SEEDS))
    rows, vocabulary = draw(st.integers(1, 4)), draw(st.sampled_from([1, 31, 32, 33, 600]))
    row = random.permutation(rows)[: draw(st.integers(0, rows))].astype(np.int64)
    words = random.integers(0, 2**32, (len(row), -(-vocabulary // 32)), dtype=np.uint32)
    logits = normal(random, (rows, vocabulary), draw(st.sampled_from(FLOATS)))
    return {"logits": logits, "allowed": words, "row": row}


def check_mask(before: Arguments, after: Arguments) -> None:
    exact = before["logits"].astype(float)
    for words, row in zip(before["allowed"], before["row"], strict=True):
        for token in range(exact.shape[1]):
            if not int(words[token // 32]) >> token % 32 & 1:
                exact[row, token] = -np.inf
    np.testing.assert_array_equal(after["logits"].astype(float), exact)


VERIFY_LAWS = [
    Law("verify_match", matches(), check_match),
    Law("verify_reject", rejections(), check_rejection),
    Law("token_bitmask", masks(), check_mask, kept=("logits",)),
]
