"""Laws of the continuous batcher: what a step computes, and who gives way."""

from random import Random

from tests.llm.plan_fakes import Engine, engine, expected, generated, right

from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Phase, Sequence


def shape(served: Engine) -> list[tuple[int, int, int]]:
    """A step: whose tokens, from where, how many."""
    return [(row.sequence.id, row.start, row.count) for row in served.step().rows]


def test_a_sequence_catches_up_and_then_gets_a_token_a_step() -> None:
    """There are no phases: only tokens that are not computed yet."""
    served = engine(tokens=4)
    served.add([1] * 6, max_tokens=3)

    steps = [shape(served) for _ in range(4)]

    assert steps == [[(1, 0, 4)], [(1, 4, 2)], [(1, 6, 1)], [(1, 7, 1)]]
    assert shape(served) == []


def test_those_that_generate_come_first_and_prompts_share_the_rest() -> None:
    """A long prompt does not delay the tokens of others."""
    served = engine(tokens=6)
    served.add([1, 2], max_tokens=9)
    served.step()
    served.add([2] * 9)

    assert shape(served) == [(1, 2, 1), (2, 0, 5)]
    assert shape(served) == [(1, 3, 1), (2, 5, 4)]


def test_the_last_token_of_a_prompt_counts_as_one_that_decodes() -> None:
    """Rows of one token after others are the first, so that a runner can cut the batch in two."""
    served = engine(tokens=5)
    served.add([3] * 9)
    served.step()
    served.add([1, 2])
    served.step()

    plan = served.step()

    assert [row.decodes for row in plan.rows] == [True, True]
    assert plan.n_decodes == 2


def test_a_long_prompt_leaves_room_for_others() -> None:
    """No sequence gets more than its cap of a step."""
    served = engine(tokens=16, cap=5)
    served.add([1] * 20)
    served.add([2] * 3)

    assert shape(served) == [(1, 0, 5), (2, 0, 3)]


def test_no_more_run_than_there_are_slots_or_tokens_in_a_step() -> None:
    """Whoever runs gets a token in every step."""
    few, narrow = engine(seqs=2), engine(tokens=2)
    for served in (few, narrow):
        for _ in range(4):
            served.add([1])
        served.step()
        served.step()

    assert few.batcher.stats().running == 2
    assert narrow.batcher.stats().running == 2


def test_who_is_not_ready_is_passed_over() -> None:
    """A grammar that is being compiled blocks nobody, and keeps its place."""
    served = engine(seqs=1)
    late = served.add([1], ready=False)
    served.add([2], max_tokens=1)
    served.add([3], max_tokens=1)

    first = shape(served)
    late.ready = True
    second = shape(served)

    assert first == [(2, 0, 1)]
    assert second == [(1, 0, 1)]


def test_an_admission_leaves_room_for_those_that_run() -> None:
    """The watermark is kept free when another runs, and not when nobody does."""
    served = engine(blocks=10, watermark=0.3)
    served.add([1] * 32, max_tokens=8)
    served.step()

    served.add([2] * 4)
    served.step()

    stats = served.batcher.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (1, 1, 1)


def test_the_newest_gives_way_and_begins_again_where_it_stood() -> None:
    """Its tokens are kept; it goes before those that came after it."""
    served = engine(blocks=4, caching=False)
    old, new = served.add([1] * 7, max_tokens=9), served.add([2] * 7, max_tokens=5)
    served.step()
    served.step()
    later = served.add([3], max_tokens=1)

    plan = served.step()

    assert plan.preempted == (new,)
    assert [row.sequence for row in plan.rows] == [old]
    assert (new.phase, new.n_generated, new.blocks) == (Phase.WAITING, 2, [])
    served.run()
    assert new.preemptions == 1
    ended = [row.sequence for plan in served.plans for row in plan.rows if row.samples]
    assert ended.index(later) > ended.index(new)
    assert all(generated(one) == right(one) for one in (old, new, later))


def test_a_sequence_that_is_alone_and_cannot_grow_is_stuck() -> None:
    """It was promised more than there is (the engine gave it more), and the plan says so."""
    served = engine(blocks=2)
    alone = served.add([1] * 7, max_tokens=1)
    alone.max_tokens = 5
    served.step()
    served.step()

    plan = served.step()

    assert (plan.rows, plan.stuck) == ((), (alone,))
    served.batcher.finish(alone)
    assert served.batcher.stats().free_blocks == 2


def test_who_waits_for_more_than_there_is_is_stuck() -> None:
    """Preempted at a length that no longer fits, it would wait for ever."""
    served = engine(blocks=2)
    waits = served.add([1] * 7, max_tokens=1)
    waits.tokens += [1, 1]
    served.batcher._roster.waiting_tokens += 2

    assert served.batcher.plan(1).stuck == (waits,)


def test_what_is_finished_in_mid_step_is_not_updated() -> None:
    """Its blocks are free at once, and its row's tokens go nowhere."""
    served = engine()
    gone, stays = served.add([1] * 5), served.add([2] * 5)
    plan = served.batcher.plan(1)

    served.batcher.finish(gone)
    served.batcher.finish(gone)
    served.batcher.update(plan, [[3], [3]])

    assert (gone.n_generated, stays.n_generated) == (0, 1)
    assert served.batcher.stats().free_blocks == 64 - 2


def test_a_plan_that_is_not_carried_out_is_made_again() -> None:
    """A step that failed loses nothing."""
    served = engine()
    served.add([1] * 5)

    first = served.batcher.plan(1)

    assert served.batcher.plan(2).rows == first.rows


def test_logits_are_wanted_of_the_last_position_or_of_the_whole_prompt() -> None:
    """A part of a prompt wants none, unless its own log-probabilities are asked for."""
    served = engine(tokens=4)
    served.add([1] * 6)
    plain = [(row.logits, row.samples) for _ in range(3) for row in served.step().rows]
    scored = engine(tokens=4)
    scored.add([1] * 6, params=SamplingParams(prompt_logprobs=0))

    whole = [(row.logits, row.samples) for _ in range(3) for row in scored.step().rows]

    assert plain == [(0, False), (1, True), (1, True)]
    assert whole == [(4, False), (2, True), (1, True)]


def test_a_prompt_without_an_answer_is_computed_and_not_sampled() -> None:
    """Whoever only wants the prompt scored gets no token."""
    served = engine()
    served.add([1] * 6, max_tokens=0, params=SamplingParams(prompt_logprobs=0))

    row = served.batcher.plan(1).rows[0]

    assert (row.logits, row.samples) == (6, False)


def test_output_is_the_same_in_any_batch_and_however_it_is_cut() -> None:
    """Budgets, caps, slots and pools change when a token comes, and never which."""
    random = Random(1)
    prompts = [[random.randrange(5) for _ in range(random.randrange(1, 20))] for _ in range(12)]
    prompts += [[*prompts[0], 1], [*prompts[1], 2, 3]]

    for tokens, cap, seqs, blocks in ((1, 0, 8, 64), (7, 3, 8, 64), (16, 0, 3, 12), (64, 5, 8, 10)):
        served = engine(blocks, tokens=tokens, cap=cap, seqs=seqs)
        sequences = [served.add(prompt, max_tokens=10) for prompt in prompts]
        served.run()

        assert all(generated(one) == expected(one.tokens[: one.n_prompt], 10) for one in sequences)
        assert served.batcher.stats().free_blocks == blocks
        served.batcher.check()


def test_a_tight_pool_preempts_and_everybody_is_served() -> None:
    """At least five preemptions, and no text is another for it."""
    served = engine(blocks=10, caching=False)
    sequences = [served.add([at % 5] * 4, max_tokens=20) for at in range(8)]

    served.run()

    assert len(served.preempted) >= 5
    assert all(generated(one) == right(one) for one in sequences)


def test_a_thousand_cancels_and_deadlines_leave_the_pool_full() -> None:
    """Whenever a sequence ends, all it had comes back."""
    random = Random(2)
    served = engine(blocks=24, seqs=6, tokens=24, policy="priority")
    alive: list[Sequence] = []
    for _ in range(1000):
        deadline = served.now + random.randrange(1, 30) if random.random() < 0.5 else None
        prompt = [random.randrange(2) for _ in range(random.randrange(1, 24))]
        level = random.randrange(3)
        alive.append(served.add(prompt, random.randrange(1, 24), priority=level, deadline=deadline))
        served.step()
        for late in served.batcher.expired(served.now):
            served.batcher.finish(late)
        if random.random() < 0.7:
            served.batcher.finish(alive.pop(random.randrange(len(alive))))
        if len(alive) > 40:
            served.batcher.finish(alive.pop(0))

    served.batcher.check()
    for sequence in alive:
        served.batcher.finish(sequence)
    stats = served.batcher.stats()
    assert (stats.running, stats.waiting, stats.waiting_tokens) == (0, 0, 0)
    assert stats.free_blocks == 24
    assert served.batcher.next_deadline() is None
    served.batcher.check()


def test_deadlines_are_told_once_and_in_time() -> None:
    """Whoever asks in time hears of each, the first first."""
    served = engine()
    second, first = served.add([1], deadline=9), served.add([1], deadline=5)
    served.add([1])

    assert served.batcher.expired(4) == []
    assert served.batcher.next_deadline() == 5
    assert served.batcher.expired(9) == [first, second]
    assert served.batcher.expired(9) == []


def test_the_deadlines_of_what_has_ended_are_forgotten() -> None:
    """Memory is bound by what lives."""
    served = engine()
    for _ in range(500):
        served.batcher.finish(served.add([1], deadline=1 << 60))

    assert len(served.batcher._deadlines._heap) < 100
    assert served.batcher.next_deadline() is None


def test_the_state_is_seen_at_a_glance() -> None:
    """In words and in numbers."""
    served = engine()
    served.add([1] * 5, max_tokens=3)
    served.step()
    served.add([2] * 5)

    stats = served.batcher.stats()

    assert (stats.running, stats.waiting, stats.waiting_tokens) == (1, 1, 5)
    assert "1 run, 1 wait" in repr(served.batcher)
