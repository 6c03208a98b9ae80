"""Laws of proposed tokens: how many are computed, and that they never change a text."""

from tests.llm.plan_fakes import Engine, engine, expected, generated, right

from penstock_runtime.llm.sequence import Sequence


def guesses(right_ones: int, wrong_ones: int) -> Engine:
    """An engine whose proposals begin right and end wrong."""
    served = engine()

    def propose(sequence: Sequence) -> list[int]:
        prompt = sequence.tokens[: sequence.n_prompt]
        count = sequence.n_generated + right_ones + wrong_ones
        true = expected(prompt, count)[sequence.n_generated :]
        return true[:right_ones] + [(token + 1) % 5 for token in true[right_ones:]]

    served.propose = propose
    return served


def test_drafts_that_are_all_right_make_as_many_tokens_and_one() -> None:
    """Steps are saved, and the text is the same."""
    served = guesses(3, 0)
    sequence = served.add([1, 2, 3], max_tokens=9)

    served.run()

    assert generated(sequence) == right(sequence)
    assert [row.count for plan in served.plans for row in plan.rows] == [3, 4, 4]


def test_drafts_that_are_wrong_cost_nothing_but_their_computation() -> None:
    """None accepted is a token a step; some accepted are as many and one."""
    for right_ones, steps in ((0, 9), (2, 4)):
        served = guesses(right_ones, 2)
        sequence = served.add([1, 2, 3], max_tokens=9)

        served.run()

        assert generated(sequence) == right(sequence)
        assert sum(bool(plan.rows) for plan in served.plans) == steps


def test_drafts_never_go_beyond_what_a_sequence_may_have() -> None:
    """Of its last two tokens, one can be guessed."""
    served = guesses(4, 0)
    sequence = served.add([1, 2, 3], max_tokens=3)
    served.step()

    row = served.batcher.plan(2).rows[0]

    assert (row.count, row.drafts, row.logits, sequence.n_left) == (2, 1, 2, 2)
    assert len(sequence.drafts) == 1


def test_drafts_are_shortened_where_the_budget_is_tight() -> None:
    """Every sequence gets its own token before any gets a guess; prompts keep half of the rest."""
    served = engine(tokens=6)
    one, two = served.add([1], max_tokens=30), served.add([2], max_tokens=30)
    served.step()
    one.drafts, two.drafts = [1, 1, 1], [2, 2, 2]
    alone = [(row.count, row.drafts) for row in served.batcher.plan(2).rows]
    served.add([3] * 9)

    one.drafts, two.drafts = [1, 1, 1], [2, 2, 2]
    beside = [(row.count, row.drafts) for row in served.batcher.plan(3).rows]

    assert alone == [(4, 3), (2, 1)]
    assert beside == [(1, 0), (3, 2), (2, 0)]


def test_drafts_take_no_blocks_from_others() -> None:
    """A guess is not worth a preemption."""
    served = engine(blocks=3, caching=False)
    one, two = served.add([1] * 3, max_tokens=3), served.add([2] * 2, max_tokens=4)
    served.step()
    one.drafts, two.drafts = [1, 1], [2, 2]

    plan = served.batcher.plan(2)

    assert plan.preempted == ()
    assert sorted((row.sequence.id, row.drafts) for row in plan.rows) == [(1, 1), (2, 1)]
