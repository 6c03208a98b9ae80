"""What goes wrong with one request is no harm to another, and leaves nothing behind."""

import random
from collections.abc import Callable, Iterable

import pytest
import torch
from tests.llm.engine_driver import MS, Asked, Clock, Driver, drive
from tests.llm.sampling_fakes import RuleGrammar, TableModel

from penstock_runtime.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.llm.adapter_gate import AdapterGate
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.step import Row, StepPlan

VOCAB = 64
MARK = 63


class Poisoned(TableModel):
    """A table that does something else about texts that begin with a mark."""

    def __init__(self, what: Callable[[Row], None]) -> None:
        super().__init__(VOCAB)
        self._what = what
        self.runs = 0

    def run(self, plan: StepPlan) -> torch.Tensor:
        self.runs += 1
        for row in plan.rows:
            if row.sequence.tokens[0] == MARK:
                self._what(row)
        return super().run(plan)


class Holes(TableModel):
    """A table whose logits are no numbers for texts that begin with a mark."""

    def run(self, plan: StepPlan) -> torch.Tensor:
        logits = super().run(plan)
        place = 0
        for row in plan.rows:
            if row.sequence.tokens[0] == MARK:
                logits[place : place + row.logits] = float("nan")
            place += row.logits
        return logits


def raising(error: Exception) -> Callable[[Row], None]:
    def raise_it(row: Row) -> None:
        raise error

    return raise_it


def neighbours(driver: Driver) -> list[Asked]:
    return [driver.ask([1, 2, seed], max_tokens=12, seed=seed) for seed in range(7)]


def undisturbed(count: int = 7) -> list[list[int]]:
    driver = drive(TableModel(VOCAB), VOCAB)
    asked = neighbours(driver)
    driver.run()
    return [each.ids for each in asked]


def error_of(asked: Asked) -> PenstockError:
    assert asked.task.error is not None
    return asked.task.error


# -- steps that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "told", "reason"),
    [
        (RuntimeError("device 7 fell over"), Internal, "MODEL_FAILED"),
        (MemoryError(), ResourceExhausted, "OUT_OF_MEMORY"),
        (InvalidArgument("no such adapter", reason="ADAPTER"), InvalidArgument, "ADAPTER"),
    ],
)
def test_a_step_that_raises_fails_whoever_it_raises_for(
    raised: Exception, told: type[PenstockError], reason: str
) -> None:
    """And nobody else: the rest of the step is computed without it."""
    runner = Poisoned(raising(raised))
    driver = drive(runner, VOCAB)

    asked = neighbours(driver)
    driver.step()
    marked = driver.ask([MARK, 5], max_tokens=12)
    driver.run()

    assert [each.ids for each in asked] == undisturbed()
    assert type(error_of(marked)) is told
    assert error_of(marked).reason == reason
    assert "fell over" not in error_of(marked).message
    assert driver.engine.healthy
    driver.assert_empty()


def test_a_step_too_large_for_the_device_is_computed_in_parts() -> None:
    """Nobody fails where memory is enough for some at a time."""

    class Small(TableModel):
        def run(self, plan: StepPlan) -> torch.Tensor:
            if len(plan.rows) > 2:
                raise MemoryError
            return super().run(plan)

    driver = drive(Small(VOCAB), VOCAB, proposer=NgramProposer(3))

    asked = neighbours(driver)
    driver.run()

    assert [each.ids for each in asked] == undisturbed()
    driver.assert_empty()


def test_an_engine_whose_steps_all_fail_says_so_until_one_does_not() -> None:
    """Readiness follows; those who come later are tried nevertheless."""
    driver = drive(Poisoned(raising(RuntimeError("gone"))), VOCAB)

    for _ in range(3):
        driver.ask([MARK, 1], max_tokens=3)
        driver.run()
    ill = driver.engine.healthy
    healed = driver.ask([1, 2], max_tokens=3)
    driver.run()

    assert not ill
    assert driver.engine.healthy
    assert len(healed.ids) == 3
    driver.assert_empty()


def test_requests_that_fail_beside_others_do_not_make_an_engine_ill() -> None:
    """However many they are, and wherever they stand in the step."""
    driver = drive(Poisoned(raising(RuntimeError("gone"))), VOCAB)

    asked = neighbours(driver)
    bad = [driver.ask([MARK, k], max_tokens=3) for k in range(6)]
    driver.step()

    assert all(each.task.ends for each in bad)
    assert driver.engine.healthy
    driver.run()
    assert [each.ids for each in asked] == undisturbed()
    driver.assert_empty()


def test_logits_that_are_no_numbers_fail_their_own_request() -> None:
    """The others' texts are what they are without it."""
    driver = drive(Holes(VOCAB), VOCAB)

    asked = neighbours(driver)
    marked = driver.ask([MARK, 5], max_tokens=12, temperature=0.9)
    driver.run()

    assert error_of(marked).reason == "NAN_LOGITS"
    assert [each.ids for each in asked] == undisturbed()
    driver.assert_empty()


class Confused(NgramProposer):
    """Fails now and then, with some of its guesses made."""

    def __init__(self) -> None:
        super().__init__(3)
        self.calls = 0

    def propose(self, sequences: Iterable[Sequence]) -> None:
        super().propose(list(sequences))
        self.calls += 1
        if self.calls % 3 == 0:
            raise RuntimeError("no idea")


def test_guesses_that_fail_cost_nobody_anything() -> None:
    """The step goes without."""
    proposer = Confused()
    driver = drive(TableModel(VOCAB), VOCAB, proposer=proposer)

    asked = neighbours(driver)
    driver.run()

    assert proposer.calls > 6
    assert [each.ids for each in asked] == undisturbed()
    driver.assert_empty()


class Slots:
    """Adapters in so many slots; the one called "bad" cannot be loaded."""

    def __init__(self, count: int) -> None:
        self.users: dict[str, int] = {}
        self._count = count

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self.users)

    @property
    def full(self) -> bool:
        return sum(count > 0 for count in self.users.values()) >= self._count

    def read(self, name: str) -> str:
        return name

    def load(self, name: str, found: object) -> int:
        if name == "bad":
            raise RuntimeError("its factors are rotten")
        idle = [other for other, count in self.users.items() if not count]
        if len(self.users) >= self._count:
            del self.users[idle[0]]
        self.users[name] = 0
        return 0

    def acquire(self, name: str) -> int | None:
        self.users[name] += 1
        return 0

    def release(self, name: str) -> None:
        self.users[name] -= 1

    def index(self, name: str) -> int:
        return 0

    def set_rows(self, indices: object) -> None:
        """Nothing."""


def test_adapters_take_turns_and_a_bad_one_is_no_harm() -> None:
    """More of them than slots; callers that go while they wait or run leave their slots."""
    chance = random.Random(3)
    slots = Slots(2)
    driver = drive(TableModel(VOCAB), VOCAB, gate=AdapterGate(slots))

    asked = [
        driver.ask([1, 2, k], max_tokens=6, adapter=chance.choice(("a", "b", "c", "d", "bad")))
        for k in range(40)
    ]
    gone = chance.sample(asked, 10)
    plain = driver.ask([1, 2], max_tokens=6)
    for each in gone:
        driver.step()
        each.task.abandon()
    driver.run()

    for each in asked:
        if each.generation.ask.params.adapter == "bad":
            assert each.task.gone or isinstance(error_of(each), Internal)
        elif each not in gone:
            assert len(each.ids) == 6
    assert len(plain.ids) == 6
    driver.assert_empty()
    assert not any(slots.users.values())


class Broken(RuleGrammar):
    """A grammar that fails at its third token, in one of its ways."""

    def __init__(self, way: str) -> None:
        super().__init__(VOCAB, lambda told, token: token > 0)
        self._way = way

    def fill(self, mask: object, row: int) -> None:
        self._maybe("fill")
        super().fill(mask, row)

    def accept(self, token: int) -> bool:
        self._maybe("accept")
        return super().accept(token)

    @property
    def finished(self) -> bool:
        self._maybe("finished")
        return False

    def _maybe(self, way: str) -> None:
        if way == self._way and len(self.told) == 2:
            raise RuntimeError("a defect of the grammar's")


@pytest.mark.parametrize("way", ["fill", "accept", "finished"])
def test_a_grammar_that_raises_fails_its_own_request(way: str) -> None:
    """Whenever it does so."""
    driver = drive(TableModel(VOCAB), VOCAB)

    asked = neighbours(driver)
    bad = driver.ask([4, 5], max_tokens=12, grammar=Broken(way))
    driver.run()

    assert isinstance(error_of(bad), Internal)
    assert [each.ids for each in asked] == undisturbed()
    driver.assert_empty()


def test_what_never_fits_is_refused_with_its_numbers_and_leaves_nothing() -> None:
    """Before anything of it is queued, also its siblings."""
    driver = drive(TableModel(VOCAB), VOCAB, blocks=8, size=4)

    with pytest.raises(InvalidArgument, match="a prompt of 20 tokens and max_tokens 13 are 33"):
        driver.ask([1] * 20, max_tokens=13, n=3)
    with pytest.raises(InvalidArgument, match="32 tokens, expected at most 31"):
        driver.ask([1] * 32, max_tokens=1)
    fits = driver.ask([1] * 20, max_tokens=12)
    driver.run()

    assert len(fits.ids) == 12
    driver.assert_empty()


def test_an_engine_that_ended_takes_nothing_in() -> None:
    """Nobody would ever compute it."""
    driver = drive(TableModel(VOCAB), VOCAB)

    driver.engine.stop()

    with pytest.raises(Unavailable, match="ended"):
        driver.ask([1, 2])
    assert driver.engine.stats().waiting == 0


# -- callers that go, and time that runs out -------------------------------------------------------


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
    counters = driver.tally.counters()
    reasons = {s.labels["finished_reason"]: s.value for s in driver.tally.reasons()}
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


def test_one_choice_that_fails_ends_its_siblings() -> None:
    """The request has one end."""

    class Third(TableModel):
        def run(self, plan: StepPlan) -> torch.Tensor:
            if any(row.sequence.seed == 3 and row.sequence.n_generated == 2 for row in plan.rows):
                raise RuntimeError
            return super().run(plan)

    driver = drive(Third(VOCAB), VOCAB)

    asked = driver.ask([1, 2], n=3, seed=1, temperature=1.0, max_tokens=9)
    driver.run()

    assert isinstance(error_of(asked), Internal)
    driver.assert_empty()


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
    counters = driver.tally.counters()
    assert counters["generation_tokens_total"] == sum(len(each.ids) for each in asked)
    assert counters["prompt_tokens_total"] == 18


def summed(driver: Driver, name: str) -> dict[str, float]:
    """Count and sum of a histogram."""
    samples = driver.tally.histogram(name)
    return {
        kind: next(float(s.value) for s in samples if getattr(s, "suffix", "") == f"_{kind}")
        for kind in ("count", "sum")
    }
