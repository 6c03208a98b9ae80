"""Laws of the prefix cache."""

from hypothesis import given
from hypothesis import strategies as st
from tests.llm.plan_fakes import engine, generated, right

from penstock_runtime.llm.prefix import chain_hashes, chain_root
from penstock_runtime.llm.sampling_params import SamplingParams

PROMPT = [1, 2, 3, 4, 0, 1, 2, 3, 4, 4]


@given(
    tokens=st.lists(st.integers(0, 3), min_size=8, max_size=20),
    other=st.lists(st.integers(0, 3), min_size=8, max_size=20),
)
def test_equal_hashes_stand_for_equal_beginnings(tokens: list[int], other: list[int]) -> None:
    """The nth hash of two texts is the same exactly where their first n blocks are."""
    root = chain_root(b"", "")

    pairs = zip(chain_hashes(root, tokens, 4), chain_hashes(root, other, 4), strict=False)

    for at, (one, two) in enumerate(pairs, 1):
        assert (one == two) == (tokens[: 4 * at] == other[: 4 * at])


def test_only_full_blocks_have_a_hash() -> None:
    """Tokens of a block that is not full are not hashed."""
    hashes = chain_hashes(chain_root(b"", ""), range(7), 4)

    assert hashes == chain_hashes(chain_root(b"", ""), range(4), 4)


def test_a_chain_can_be_gone_on_with() -> None:
    """Hashing in parts gives what hashing at once gives."""
    root = chain_root(b"s", "a")
    whole = chain_hashes(root, range(12), 4)

    begun = chain_hashes(root, range(4), 4)

    assert begun + chain_hashes(begun[-1], range(4, 12), 4) == whole


def test_salts_and_adapters_are_told_apart_wherever_they_meet() -> None:
    """No letter can move from the salt to the adapter."""
    assert chain_root(b"ab", "c") != chain_root(b"a", "bc")


def test_a_prompt_that_was_computed_before_is_found() -> None:
    """All its full blocks are, and the answer is the same."""
    served = engine()
    first = served.add(PROMPT)
    served.run()

    again = served.add(PROMPT)
    served.run()

    assert (first.cached_tokens, again.cached_tokens) == (0, 8)
    assert generated(again) == generated(first) == right(first)
    stats = served.batcher.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (20, 8)


def test_a_token_at_least_is_left_to_compute() -> None:
    """Of a prompt that is cached whole, the last block is computed: its logits are wanted."""
    served = engine()
    served.add(PROMPT[:8])
    served.run()

    again = served.add(PROMPT[:8])
    served.run()

    assert again.cached_tokens == 4
    assert generated(again) == right(again)


def test_an_answer_is_found_by_the_prompt_that_goes_on_from_it() -> None:
    """A conversation's next turn finds its last one."""
    served = engine()
    first = served.add(PROMPT, max_tokens=8)
    served.run()

    second = served.add([*first.tokens, 1])
    served.run()

    assert second.cached_tokens == 16
    assert generated(second) == right(second)


def test_another_salt_or_adapter_finds_nothing() -> None:
    """And each finds its own."""
    served = engine()
    served.add(PROMPT)
    served.run()

    salted = [served.add(PROMPT, salt=b"x")]
    served.run()
    adapted = [served.add(PROMPT, adapter="french")]
    served.run()
    salted.append(served.add(PROMPT, salt=b"x"))
    adapted.append(served.add(PROMPT, adapter="french"))
    served.run()

    assert [one.cached_tokens for one in salted] == [0, 8]
    assert [one.cached_tokens for one in adapted] == [0, 8]
    assert all(generated(one) == right(one) for one in salted + adapted)


def test_siblings_of_one_prompt_compute_it_once() -> None:
    """Those that come together wait until the first has computed what they share."""
    served = engine()
    siblings = [served.add(PROMPT) for _ in range(4)]

    served.run()

    assert [one.cached_tokens for one in siblings] == [0, 8, 8, 8]
    assert all(generated(one) == right(one) for one in siblings)


def test_siblings_do_not_wait_for_one_that_was_cancelled() -> None:
    """What was coming is not, and the next of them computes it."""
    served = engine(tokens=4)
    first, second = served.add(PROMPT), served.add(PROMPT)
    served.step()

    served.batcher.finish(first)
    plan = served.step()

    assert [row.sequence for row in plan.rows] == [second]
    served.run()
    assert generated(second) == right(second)


def test_who_does_not_want_the_cache_computes_its_prompt() -> None:
    """So does whoever wants to know the prompt's own log-probabilities."""
    served = engine()
    served.add(PROMPT)
    served.run()

    skipping = served.add(PROMPT, params=SamplingParams(skip_reading_prefix_cache=True))
    scoring = served.add(PROMPT, params=SamplingParams(prompt_logprobs=1))
    served.run()

    assert (skipping.cached_tokens, scoring.cached_tokens) == (0, 0)
    assert served.batcher.stats().prefix_queries == 10


def test_an_engine_without_prefix_caching_finds_nothing() -> None:
    """Nothing is hashed, and answers are the same."""
    served = engine(caching=False)
    first, second = served.add(PROMPT), served.add(PROMPT)

    served.run()

    assert (first.hashes, second.cached_tokens) == ([], 0)
    assert generated(second) == right(second)
