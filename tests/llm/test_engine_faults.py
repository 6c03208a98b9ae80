"""What goes wrong with one request is no harm to another, and leaves nothing behind."""

import random
from collections.abc import Callable, Iterable

import pytest
import torch
from tests.llm.engine_driver import Asked, Driver, drive
from tests.llm.sampling_fakes import RuleGrammar, TableModel

from penstock_runtime.errors import (
    InstanceDied,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.llm.adapter_gate import AdapterGate
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


# -- a GPU that is lost ----------------------------------------------------------------------------

LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"


def test_nobody_waits_for_an_engine_whose_gpu_is_lost() -> None:
    """Whoever runs or waits is told that another server might do it, at once; so are later ones.
    No step is tried in parts, for nothing can be computed there any more.
    """
    runner = Poisoned(raising(RuntimeError(LOST)))
    driver = drive(runner, VOCAB)

    asked = [*neighbours(driver), driver.ask([MARK, 5], max_tokens=12)]
    driver.run()

    for each in asked:
        assert type(error_of(each)) is InstanceDied
        assert error_of(each).reason == "DEVICE_LOST"
        assert error_of(each).message.endswith("GPU: an illegal memory access was encountered")
    assert runner.runs == 1
    assert not driver.engine.healthy
    assert driver.engine.lost
    with pytest.raises(InstanceDied, match="has lost its GPU"):
        driver.ask([1, 2], max_tokens=3)
    driver.assert_empty()


def test_a_gpu_that_is_lost_stays_so_whatever_fails_next() -> None:
    """The first half of a step that is tried in parts finds it lost, the second something else."""
    errors = iter(["CUDA error: unknown", LOST, "CUDA error: unknown"])

    class Failing(TableModel):
        def run(self, plan: StepPlan) -> torch.Tensor:
            raise RuntimeError(next(errors))

    driver = drive(Failing(VOCAB), VOCAB)
    asked = [driver.ask([1, 2, n], max_tokens=3) for n in range(2)]
    driver.run()

    assert next(errors, None) is None
    assert driver.engine.lost == "an illegal memory access was encountered"
    assert [error_of(each).reason for each in asked] == ["DEVICE_LOST", "MODEL_FAILED"]
