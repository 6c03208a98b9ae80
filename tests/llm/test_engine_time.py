"""Callers that go, time that runs out, fair parts, and what clocks say of it all."""

import random

import pytest
import torch
from tests.llm.engine_driver import MS, Asked, Clock, Driver, drive
from tests.llm.sampling_fakes import TableModel
from tests.llm.test_engine_faults import VOCAB, error_of

from penstock_runtime.errors import DeadlineExceeded, Unavailable
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.step import StepPlan


def test_a_thousand_cancels_and_deadlines_leave_nothing() -> None:
    """At random moments, before, between and in the middle of steps, with all that may be asked
    for; whoever was not touched has the whole answer.
    """
    chance = random.Random(5)
    driver: Driver

    class Meddled(TableModel):
        def run(self, plan: StepPlan) -> torch.Tensor:
            cancel_some()
            return super().run(plan)

    driver = drive(Meddled(VOCAB), VOCAB, blocks=40, seqs=8, tokens=24, proposer=NgramProposer(3))
    doomed: list[Asked] = []
    safe: list[Asked] = []

    def cancel_some() -> None:
        while doomed and chance.random() < 0.35:
            doomed.pop(chance.randrange(len(doomed))).task.abandon()

    late: list[Asked] = []
    while len(driver.asked) < 1100:
        for _ in range(chance.randrange(4)):
            asked = driver.ask(
                [chance.randrange(8) for _ in range(chance.randrange(1, 20))],
                max_tokens=chance.randrange(1, 24),
                n=chance.choice((1, 1, 1, 3)),
                stream=chance.random() < 0.7,
                temperature=chance.choice((0.0, 1.0)),
                frequency_penalty=chance.choice((0.0, 1.0)),
                deadline_ns=driver.clock.now + chance.randrange(1, 30) * MS
                if chance.random() < 0.4
                else None,
                stop=["7 7 "] if chance.random() < 0.2 else [],
            )
            held = asked.generation.choices[0].sequence.deadline_ns
            kind = safe if chance.random() < 0.1 and held is None else doomed
            (late if held is not None else kind).append(asked)
        cancel_some()
        driver.step()
    driver.run()

    driver.assert_empty()
    assert all(each.task.error is None for each in safe)
    assert all(isinstance(e.task.error, DeadlineExceeded | None) for e in late)
    assert sum(each.task.gone for each in driver.asked) > 300
    assert sum(each.task.error is not None for each in late) > 200
    counters = driver.tally.snapshot().counters()
    reasons = {s.labels["finished_reason"]: s.value for s in driver.tally.snapshot().ended()}
    assert sum(reasons.values()) == sum(len(e.generation.choices) for e in driver.asked)
    assert counters["num_preemptions_total"] == driver.engine.stats().preemptions


def test_a_deadline_ends_a_request_at_the_next_step() -> None:
    """Whether it runs, waits for room, or for its grammar; also the one that the model gives those
    without any.
    """
    options = EngineOptions(default_timeout_s=0.010)
    driver = drive(TableModel(VOCAB), VOCAB, seqs=1, options=options)

    runs = driver.ask([1, 2], max_tokens=200, deadline_ns=driver.clock.now + 5 * MS)
    waits = driver.ask([1, 3], max_tokens=200, deadline_ns=driver.clock.now + 3 * MS)
    usual = driver.ask([1, 4], max_tokens=200)
    ends = []
    for _ in range(12):
        driver.step()
        ends.append([each.task.ends for each in (runs, waits, usual)])

    assert ends[1:5] == [[0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert ends[-1] == [1, 1, 1]
    assert all(isinstance(error_of(e), DeadlineExceeded) for e in (runs, waits, usual))
    assert "4 of 200 tokens generated" in error_of(runs).message
    driver.assert_empty()


def test_a_deadline_is_refused_for_those_who_wait_and_tried_where_nobody_does() -> None:
    """What is known of the engine's speed may be wrong, and must be able to become right."""
    model = Paced(5)
    driver = drive(model, VOCAB, seqs=2, tokens=16)
    model.clock = driver.clock
    driver.ask([1] * 16, max_tokens=1)
    driver.run()

    tried = driver.ask([2] * 16, max_tokens=1, deadline_ns=driver.clock.now + 3 * MS)
    for each in range(3):
        driver.ask([3 + each] * 16, max_tokens=1)
    with pytest.raises(Unavailable, match="deadline cannot be met"):
        driver.ask([9] * 16, max_tokens=1, deadline_ns=driver.clock.now + 12 * MS)
    enough = driver.ask([9] * 16, max_tokens=1, deadline_ns=driver.clock.now + 900 * MS)
    driver.run()

    assert tried.task.error is None
    assert enough.task.error is None


def test_small_steps_say_nothing_of_an_engines_speed() -> None:
    """A first token takes long, and a lone one is no measure of what a queue is worked off with."""
    model = Paced(50)
    driver = drive(model, VOCAB, seqs=4, tokens=64)
    model.clock = driver.clock
    driver.ask([1, 2], max_tokens=4)
    driver.run()

    for each in range(3):
        driver.ask([3 + each] * 16, max_tokens=1)
    asked = driver.ask([9] * 16, max_tokens=1, deadline_ns=driver.clock.now + 200 * MS)
    driver.run()

    assert asked.task.error is None


class Paced(TableModel):
    """Every step takes so many milliseconds of the driver's clock."""

    def __init__(self, step_ms: int) -> None:
        super().__init__(VOCAB)
        self.step_ms = step_ms
        self.clock: Clock | None = None

    def run(self, plan: StepPlan) -> torch.Tensor:
        assert self.clock is not None
        self.clock.now += self.step_ms * MS
        return super().run(plan)


# -- fairness --------------------------------------------------------------------------------------


def test_tenants_get_equal_parts_whatever_they_ask_for() -> None:
    """Ten to one in requests is one to one in tokens, within a tenth."""
    driver = drive(TableModel(VOCAB), VOCAB, seqs=4, blocks=200, policy="vtc")
    asked = {"many": [], "few": []}  # type: dict[str, list[Asked]]
    chance = random.Random(1)

    for turn in range(220):
        tenant = "few" if turn % 11 == 10 else "many"
        prompt = [chance.randrange(VOCAB) for _ in range(8)]
        asked[tenant].append(driver.ask(prompt, max_tokens=16, tenant=tenant))
    while not all(each.task.ends for each in asked["few"]):
        driver.step()

    given = {t: sum(e.generation.choices[0].n_tokens for e in a) for t, a in asked.items()}
    assert 0.9 < given["many"] / given["few"] < 1.1


# -- what callers and clocks see -------------------------------------------------------------------


def test_histograms_agree_with_what_callers_got() -> None:
    """A first token each, and a gap for each other one; the sums are the times between."""
    driver = drive(TableModel(VOCAB), VOCAB)
    names = ("output_ids", "num_output_tokens", "ttft_ns", "itl_mean_ns", "queue_ns")

    asked = [
        driver.ask([1, 2, k], max_tokens=5 + k, stream=k % 2 == 0, outputs=names) for k in range(6)
    ]
    driver.run()

    found = {name: dict(summed(driver, name)) for name in ("time_to_first_token_seconds",)}
    gaps = summed(driver, "inter_token_latency_seconds")
    whole = summed(driver, "e2e_request_latency_seconds")
    last = [each.task.answers[-1] for each in asked]
    assert found["time_to_first_token_seconds"]["count"] == 6
    assert found["time_to_first_token_seconds"]["sum"] == pytest.approx(
        sum(int(answer["ttft_ns"][0]) for answer in last) / 1e9
    )
    assert gaps["count"] == sum(len(each.ids) - 1 for each in asked)
    assert gaps["sum"] == pytest.approx(
        sum(
            int(answer["itl_mean_ns"][0]) * (len(each.ids) - 1)
            for answer, each in zip(last, asked, strict=True)
        )
        / 1e9
    )
    assert whole["count"] == 6
    counters = driver.tally.snapshot().counters()
    assert counters["generation_tokens_total"] == sum(len(each.ids) for each in asked)
    assert counters["prompt_tokens_total"] == 18


def summed(driver: Driver, name: str) -> dict[str, float]:
    """Count and sum of a histogram."""
    samples = driver.tally.snapshot().histogram(name)
    return {
        kind: next(float(s.value) for s in samples if getattr(s, "suffix", "") == f"_{kind}")
        for kind in ("count", "sum")
    }
