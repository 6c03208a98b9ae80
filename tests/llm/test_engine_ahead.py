"""Steps that are launched before the last one's tokens are known: the same answers, whatever comes
between, and nobody is told anything twice.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm import lora_folders, tiny_models
from tests.llm.engine_cases import COUNT, OPTIONS, SIZE, case, in_company
from tests.llm.engine_cases import one_thread as one_thread
from tests.llm.engine_driver import WANTED, Asked, Driver, drive
from tests.llm.host_launcher import HostCapturer, HostLauncher, host_kernels
from tests.llm.sampling_fakes import RuleGrammar, TableModel

from penstock_kernels.run import Reference
from penstock_runtime.errors import DeadlineExceeded, Internal
from penstock_runtime.llm.adapter_gate import AdaptedRunner, AdapterGate
from penstock_runtime.llm.cuda_graphs import DecodeGraphs
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.lora import Adapters
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.packing import Feed
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.step import Row, StepPlan
from penstock_runtime.llm.stepping import Step, StepsAhead

VOCAB = 64
MARK = 63
CPU = torch.device("cpu")


class FedTable(TableModel):
    """A table that finds tokens where the step before left them."""

    def run(self, plan: StepPlan, feed: Feed | None = None) -> torch.Tensor:
        self._feed = feed
        return super().run(plan)

    def _logits(self, row: Row, place: int) -> torch.Tensor:
        text = row.sequence.tokens[: row.start] + row.tokens
        if row.sequence.foreseen:
            assert self._feed is not None
            text[-1] = int(self._feed.tokens[self._feed.rows[row.sequence]])
        before = text[place - 1] if place else 0
        return self.table[(text[place] * 31 + before * 17) % 257]


class Watched(StepsAhead):
    """Keeps the order of what is launched and asked for; may lose steps on their way."""

    def __init__(self, runner: Any, sampler: Any) -> None:
        super().__init__(runner, sampler)
        self.order: list[str] = []
        self.ahead = self.lose = 0

    def launch(self, plan: StepPlan, last: Step | None, now: int) -> Step:
        step = super().launch(plan, last, now)
        self.ahead += last is not None
        self.order.append("launch")
        return step

    def results(self, step: Step) -> Any:
        self.order.append("results")
        if self.lose and step.drawn is not None:
            self.lose -= 1
            raise RuntimeError("the device was lost")
        return super().results(step)


# One by one, and ahead.
MODES: list[dict[str, Any]] = [{}, {"steps": Watched}]


def watched(driver: Driver) -> Watched:
    steps = driver.engine._steps
    assert isinstance(steps, Watched)
    return steps


def table(**more: Any) -> Driver:
    more = {"steps": Watched, **more}
    return drive(FedTable(VOCAB), VOCAB, **more)


def on_device() -> DeviceSampler:
    return DeviceSampler(host_kernels(HostLauncher(Reference())))


WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "top_k": 9, "seed": 3},
    {"max_tokens": 1},
    {"repetition_penalty": 1.4},
    {"min_tokens": 5, "ignore_eos": False},
    {"ignore_eos": False},
    {"stop_token_ids": [7, 9, 11]},
    {"logprobs": 2, "prompt_logprobs": 0, "max_tokens": 5},
    {"prompt_logprobs": 1, "logprobs": 0},
    {"n": 3, "temperature": 1.1, "seed": 8},
    {"stop": ["12 ", "40 "]},
    {"bad_words": []},
    {"logit_bias": {"5": 3.0}},
    {"max_tokens": 0, "prompt_logprobs": 0},
]


TOLD = ("logprobs", "prompt_logprobs")


def texts_of(asked: list[Asked]) -> list[list[Any]]:
    return [
        [
            [str(answer[name].tolist()) for name in WANTED + TOLD if name in answer]
            for answer in sorted(each.task.answers, key=lambda answer: int(answer["index"][0]))
        ]
        for each in asked
    ]


@given(
    plan=st.lists(
        st.tuples(st.integers(0, len(WISHES) - 1), st.integers(1, 9), st.integers(0, 3)),
        min_size=1,
        max_size=9,
    ),
    blocks=st.integers(12, 40),
    tokens=st.integers(4, 40),
    device=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_answers_are_those_of_steps_one_by_one(
    plan: list[tuple[int, int, int]], blocks: int, tokens: int, device: bool
) -> None:
    """Whatever is asked, in any company, in any order of arrival, in a pool that may be tight."""
    found: list[list[list[Any]]] = []
    for more in MODES:
        sampler = on_device() if device else None
        driver = drive(
            FedTable(VOCAB), VOCAB, blocks=blocks, tokens=tokens, eos=(2,), device=sampler, **more
        )
        asked = []
        for wish, length, steps in plan:
            document = {"max_tokens": 12, "seed": 5, **WISHES[wish]}
            told = TOLD if "logprobs" in document else ()
            asked.append(
                driver.ask(range(10, 10 + length), stream=False, outputs=WANTED + told, **document)
            )
            for _ in range(steps):
                driver.step()
        driver.run()
        driver.assert_empty()
        found.append(texts_of(asked))

    assert found[0] == found[1]


def test_a_step_is_launched_before_the_last_is_asked_for() -> None:
    """That is what it is all about: the device never waits for the host."""
    driver = table()

    asked = driver.ask([1, 2, 3], max_tokens=5)
    driver.run()

    assert len(asked.ids) == 5
    assert watched(driver).order == ["launch", *["launch", "results"] * 4, "results"]


def test_tokens_are_told_one_by_one_as_soon_as_they_are_known() -> None:
    """One step behind; the last does not wait for another request."""
    driver = table()
    asked = driver.ask([1, 2, 3], max_tokens=3)

    told = []
    while driver.step():
        told.append(len(asked.ids))

    assert told == [0, 1, 2, 3]
    driver.assert_empty()


def test_what_needs_the_text_so_far_is_drawn_when_that_is_known() -> None:
    """Beside others, which go on as ever; a grammar is never told what did not come."""
    wanted = [asked.ids for asked in _with_grammars(drive(FedTable(VOCAB), VOCAB))]

    driver = table()
    found = [asked.ids for asked in _with_grammars(driver)]

    assert found == wanted
    assert watched(driver).ahead > 0


def _with_grammars(driver: Driver) -> list[Asked]:
    asked = [driver.ask([1, 2, k], max_tokens=9) for k in range(3)]
    for _ in range(3):
        driver.step()
    for k in range(2):
        grammar = RuleGrammar(VOCAB, lambda told, token: (token + len(told)) % 3 == 1)
        asked.append(driver.ask([k, 4], max_tokens=5 + k, grammar=grammar))
    driver.run()
    driver.assert_empty()
    return asked


# -- those who go ----------------------------------------------------------------------------------


def test_a_caller_that_goes_while_a_step_is_on_its_way_leaves_nothing() -> None:
    """Its blocks may be another's before the step has ended; the others' texts are theirs."""
    alone = drive(FedTable(VOCAB), VOCAB)
    wanted = alone.ask([5, 6, 7], max_tokens=12)
    alone.run()
    driver = table(blocks=8, size=4)

    gone = [driver.ask([1, 2, k], max_tokens=12) for k in range(2)]
    for _ in range(3):
        driver.step()
    for each in gone:
        each.task.abandon()
    stays = driver.ask([5, 6, 7], max_tokens=12)
    driver.run()

    assert stays.ids == wanted.ids
    driver.assert_empty()


def test_a_deadline_acts_while_steps_are_on_their_way() -> None:
    """Told once, with what was known."""
    driver = table()
    late = driver.ask([1, 2], max_tokens=40, deadline_ns=driver.clock() + 5_500_000)
    other = driver.ask([3, 4], max_tokens=20)

    driver.run()

    assert isinstance(late.task.error, DeadlineExceeded)
    assert len(other.ids) == 20
    driver.assert_empty()


def test_an_engine_that_stops_tells_what_it_has_computed() -> None:
    """The step on its way is its last."""
    driver = table()
    asked = driver.ask([1, 2, 3], max_tokens=9)
    for _ in range(4):
        driver.step()
    before = len(asked.ids)

    driver.engine.stop()
    driver.engine._run()
    driver.scribe.drain()

    assert before == 3
    assert len(asked.ids) == 4


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_step_that_is_lost_on_its_way_is_computed_again() -> None:
    """With the one behind it; nobody is told anything twice, and the engine is well."""
    wanted = [asked.ids for asked in _some(drive(FedTable(VOCAB), VOCAB), 0)]

    for steps in range(1, 8):
        driver = table(blocks=12)
        found = [asked.ids for asked in _some(driver, steps)]

        assert found == wanted
        assert driver.engine.healthy


def _some(driver: Driver, lost_at: int) -> list[Asked]:
    asked = [driver.ask([1, 2, k] * (k + 1), max_tokens=9) for k in range(5)]
    for _ in range(lost_at):
        driver.step()
    if lost_at:
        watched(driver).lose = 1
    driver.run()
    driver.assert_empty()
    return asked


def test_a_device_that_loses_every_step_comes_to_an_end() -> None:
    """Each second one is computed with care: they end, if slowly."""
    driver = table()
    asked = driver.ask([1, 2, 3], max_tokens=6)
    watched(driver).lose = 1 << 30

    driver.run()

    assert len(asked.ids) == 6
    driver.assert_empty()


class Raising(FedTable):
    """Cannot compute texts that begin with a mark."""

    def run(self, plan: StepPlan, feed: Feed | None = None) -> torch.Tensor:
        if any(row.sequence.tokens[0] == MARK for row in plan.rows):
            raise RuntimeError("gone")
        return super().run(plan, feed)


def test_a_step_that_raises_at_its_launch_fails_whoever_it_raises_for() -> None:
    """The one before it is taken in, and the others of its own are computed without it."""
    quiet = drive(FedTable(VOCAB), VOCAB)
    wanted = [quiet.ask([1, 2, k], max_tokens=9) for k in range(4)]
    quiet.run()
    driver = drive(Raising(VOCAB), VOCAB, steps=Watched)

    asked = [driver.ask([1, 2, k], max_tokens=9) for k in range(4)]
    for _ in range(3):
        driver.step()
    bad = driver.ask([MARK, 1], max_tokens=3)
    driver.run()

    assert isinstance(bad.task.error, Internal)
    assert [each.ids for each in asked] == [each.ids for each in wanted]
    assert driver.engine.healthy
    driver.assert_empty()


class Holed(FedTable):
    """Its third step has no numbers for texts that begin with a mark."""

    def _logits(self, row: Row, place: int) -> torch.Tensor:
        logits = super()._logits(row, place)
        marked = row.sequence.tokens[0] == MARK and row.sequence.n_generated == 2
        return logits * float("nan") if marked else logits


def test_logits_that_are_no_numbers_fail_their_own_request() -> None:
    """One step after they were computed; what was computed behind them is nobody's."""
    driver = drive(Holed(VOCAB), VOCAB, steps=Watched)

    other = driver.ask([1, 2], max_tokens=9)
    bad = driver.ask([MARK, 5], max_tokens=9)
    driver.run()

    assert isinstance(bad.task.error, Internal)
    assert bad.task.error.reason == "NAN_LOGITS"
    assert len(bad.ids) == 3
    assert len(other.ids) == 9
    driver.assert_empty()


class HoledBehind(FedTable):
    """Has no numbers behind a token."""

    def __init__(self, token: int) -> None:
        super().__init__(VOCAB)
        self.token = token

    def _logits(self, row: Row, place: int) -> torch.Tensor:
        logits = super()._logits(row, place)
        fed = row.sequence.foreseen and self._feed is not None
        last = int(self._feed.tokens[self._feed.rows[row.sequence]]) if fed else -1  # type: ignore[union-attr]
        return logits * float("nan") if last == self.token else logits


def test_what_is_computed_behind_an_end_is_nobodys() -> None:
    """A sibling that goes on does not fail by it."""
    wish: dict[str, Any] = {"n": 2, "temperature": 1.0, "seed": 4, "max_tokens": 12}
    plain = drive(FedTable(VOCAB), VOCAB)
    first = plain.ask([1, 2, 3], **wish)
    plain.run()
    of_one = [int(a["output_ids"][0]) for a in first.task.answers if a["index"][0] == 0]
    of_other = [int(a["output_ids"][0]) for a in first.task.answers if a["index"][0] == 1]
    stop = next(token for token in of_one[2:] if token not in of_other)
    driver = drive(HoledBehind(stop), VOCAB, steps=Watched, device=on_device())

    asked = driver.ask([1, 2, 3], stop_token_ids=[stop], **wish)
    driver.run()

    assert asked.task.error is None
    assert asked.task.ends == 1
    driver.assert_empty()


# -- real models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(tiny_models.FAMILIES))
def test_every_family_generates_what_generate_does(family: str) -> None:
    """Mixed arrivals, chunks, a pool that is too small and neighbours that are cancelled."""
    model, prompts, wanted = case(family)
    runner = PagedRunner(model, OPTIONS, 17)
    driver = drive(runner, model.vocab_size, blocks=17, size=SIZE, tokens=9, seqs=5, steps=Watched)

    asked = in_company(driver, prompts)

    assert [each.ids for each in asked] == wanted
    assert watched(driver).ahead > COUNT
    driver.assert_empty()


def test_graphs_find_the_tokens_of_the_step_before() -> None:
    """On the device, in rows that are no longer where they were; at random as well."""
    model = prepare(tiny_models.build("Llama").half(), OPTIONS)
    found = []
    for more in MODES:
        runner = PagedRunner(model, OPTIONS, 60)
        runner.device = host_kernels(HostLauncher())
        runner.graphs = DecodeGraphs(
            runner.decoded, HostCapturer(), CPU, most_rows=8, pages=30, block_size=SIZE
        )
        driver = drive(runner, model.vocab_size, blocks=60, size=SIZE, device=on_device(), **more)
        asked = [
            driver.ask(prompt, max_tokens=COUNT - k, temperature=0.7 * (k % 2), top_k=20, seed=k)
            for k, prompt in enumerate(tiny_models.prompts()[:4])
        ]
        driver.run()
        driver.assert_empty()
        found.append([each.ids for each in asked])
        assert len(runner.graphs._graphs) >= 2

    assert found[0] == found[1]


def test_adapters_take_turns_while_steps_are_on_their_way(tmp_path: Path) -> None:
    """Each text is its adapter's; one slot serves three of them."""
    base = lora_folders.model()
    for k in range(3):
        lora_folders.write(tmp_path / "loras" / f"a{k}", seed=k)
    options = replace(OPTIONS, adapters="*=loras", max_loras=1)
    found = []
    for more in MODES:
        model = prepare(copy.deepcopy(base), options)
        adapters = Adapters(model.model, options, tmp_path)
        runner = AdaptedRunner(PagedRunner(model, options, 60), adapters)
        driver = drive(
            runner, model.vocab_size, blocks=60, size=SIZE, gate=AdapterGate(adapters), **more
        )
        asked = [driver.ask([1, 2, 3 + k], max_tokens=9, adapter=f"a{k % 3}") for k in range(6)]
        for _ in range(500):
            if not driver.step() and all(each.task.ends for each in asked):
                break
        driver.assert_empty()
        found.append([each.ids for each in asked])

    assert found[0] == found[1]
    assert len({tuple(ids) for ids in found[0]}) > 2
