"""What callers are told, whole or bit by bit, and how it ends."""

import json
from typing import Any

import pytest
from tests.llm.engine_driver import MS, WANTED, Driver, Words, drive
from tests.llm.sampling_fakes import TableModel

from penstock_runtime.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
)
from penstock_runtime.llm.calls import CallRecord
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.watching import EngineWatcher

VOCAB = 64
EVERYTHING = (
    *WANTED,
    *("stop_reason", "cumulative_logprob", "logprobs", "prompt_logprobs", "num_input_tokens"),
    *("num_output_tokens", "cached_tokens", "ttft_ns", "queue_ns", "itl_mean_ns", "compute_ns"),
    "cost",
)


def driver_of(**more: Any) -> Driver:
    return drive(TableModel(VOCAB), VOCAB, **more)


def whole_text(prompt: list[int], count: int) -> list[str]:
    """The words that follow a prompt."""
    driver = driver_of()
    asked = driver.ask(prompt, max_tokens=count, stream=False)
    driver.run()
    return asked.task.text.split()


# -- bit by bit ------------------------------------------------------------------------------------


def test_deltas_put_together_are_the_whole_answer() -> None:
    """Text, tokens, logprobs; the last delta has the reason, and every figure is there."""
    driver = driver_of()
    streamed = driver.ask([1, 2, 3], max_tokens=9, outputs=EVERYTHING, logprobs=1)
    whole = driver.ask([1, 2, 3], max_tokens=9, outputs=EVERYTHING, logprobs=1, stream=False)

    driver.run()

    deltas, (answer,) = streamed.task.answers, whole.task.answers
    assert len(deltas) == 9
    assert [d["finish_reason"][0] for d in deltas] == [b""] * 8 + [b"length"]
    assert streamed.task.text == whole.task.text
    assert streamed.ids == whole.ids
    assert [e for d in deltas for e in json.loads(d["logprobs"][0])] == json.loads(
        answer["logprobs"][0]
    )
    assert [int(d["num_output_tokens"][0]) for d in deltas] == list(range(1, 10))
    assert deltas[-1]["cumulative_logprob"] == answer["cumulative_logprob"]
    assert set(answer) == set(EVERYTHING)
    assert all(set(delta) == set(EVERYTHING) for delta in deltas)


def test_logprobs_of_a_prompt_are_told_once() -> None:
    """They are as long as the prompt, and a stream has many responses."""
    driver = driver_of()
    asked = driver.ask([1, 2, 3], max_tokens=3, n=2, prompt_logprobs=0, outputs=EVERYTHING)

    driver.run()

    told = [json.loads(answer["prompt_logprobs"][0]) for answer in asked.task.answers]
    assert [len(each) for each in told] == [3, 0, 0, 0, 0, 0]
    assert told[0][0] is None
    assert list(told[0][1]) == ["2"]


def test_logprobs_of_a_prompt_need_no_parameter_beside_the_output() -> None:
    """Whoever asks for the output wants them."""
    driver = driver_of()
    asked = driver.ask([1, 2, 3], max_tokens=1, outputs=("prompt_logprobs", "logprobs"))

    driver.run()

    (answer,) = asked.task.answers
    assert len(json.loads(answer["prompt_logprobs"][0])) == 3
    assert len(json.loads(answer["logprobs"][0])) == 1


def test_a_stream_may_ask_for_several_tokens_at_once() -> None:
    """stream_interval is the least that a response has, but for the last."""
    driver = driver_of()
    asked = driver.ask([1, 2], max_tokens=10, stream_interval=4)

    driver.run()

    assert [len(answer["output_ids"]) for answer in asked.task.answers] == [4, 4, 2]


def test_several_choices_are_streamed_side_by_side() -> None:
    """Each ends with its reason; the request with the last of them."""
    driver = driver_of()
    asked = driver.ask([1, 2], n=3, seed=5, temperature=1.0, max_tokens=4)

    driver.run()

    answers = asked.task.answers
    by_choice = {k: [a for a in answers if a["index"][0] == k] for k in range(3)}
    assert [len(deltas) for deltas in by_choice.values()] == [4, 4, 4]
    assert all(deltas[-1]["finish_reason"][0] == b"length" for deltas in by_choice.values())
    assert sum(a["finish_reason"][0] != b"" for a in answers) == 3
    assert len({tuple(int(a["output_ids"][0]) for a in d) for d in by_choice.values()}) > 1


# -- slow readers ----------------------------------------------------------------------------------


def test_a_slow_reader_gets_more_at_once_and_keeps_nobody_waiting() -> None:
    """What it has no room for waits; `Task.send` would not have it otherwise."""
    driver = driver_of()
    slow = driver.ask([1, 2], n=3, seed=5, temperature=1.0, max_tokens=6)
    quick = driver.ask([1, 2, 3], max_tokens=6)
    slow.task.room = 4

    driver.run()
    before = len(slow.task.answers)
    slow.task.room = 2
    driver.scribe.tell(())
    slow.task.room = 1
    driver.scribe.tell(())

    assert (len(quick.task.answers), before, len(slow.task.answers)) == (6, 4, 7)
    assert slow.task.ends == 1
    assert len(slow.ids) == 18
    driver.assert_empty()


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """RESOURCE_EXHAUSTED after ten seconds, and its blocks are free."""
    driver = driver_of()
    asked = driver.ask([1, 2], max_tokens=200)
    asked.task.room = 3

    for _ in range(5):
        driver.step()
    driver.clock.now += 9_000 * MS
    driver.step()
    held = asked.task.ends
    driver.clock.now += 2_000 * MS
    driver.step()

    assert (held, asked.task.ends) == (0, 1)
    assert isinstance(asked.task.error, ResourceExhausted)
    assert asked.task.error.reason == "SLOW_READER"
    driver.assert_empty()


def test_a_reader_without_room_is_not_slow_while_there_is_nothing_to_tell() -> None:
    """Only what waits for it counts."""
    driver = driver_of()
    asked = driver.ask([1, 2], max_tokens=30, stream_interval=20)
    asked.task.room = 0

    for _ in range(5):
        driver.step()
        driver.clock.now += 5_000 * MS
    asked.task.room = 9
    driver.run()

    assert asked.task.error is None
    assert len(asked.ids) == 30


# -- the end ---------------------------------------------------------------------------------------


def test_a_stop_string_ends_a_text_before_it() -> None:
    """Nothing of it is told, what was computed beyond it is not, and its blocks are free."""
    words = whole_text([1, 2], 12)
    driver = driver_of()
    stop = f" {words[3]} {words[4]}"

    asked = driver.ask([1, 2], max_tokens=200, stop=[stop], outputs=EVERYTHING)
    driver.run()

    last = asked.task.answers[-1]
    assert asked.task.text == " ".join(words[:3])
    assert (last["finish_reason"][0], last["stop_reason"][0]) == (b"stop", stop.encode())
    assert int(last["num_output_tokens"][0]) == 5
    driver.assert_empty()


def test_a_token_that_ends_a_text_is_counted_and_not_told() -> None:
    """Unless the text is to have it."""
    words = whole_text([1, 2], 12)
    driver = driver_of()
    stops: dict[str, Any] = {
        "stop_token_ids": [int(words[4])],
        "max_tokens": 200,
        "outputs": EVERYTHING,
    }

    silent = driver.ask([1, 2], **stops)
    loud = driver.ask([1, 2], include_stop_str_in_output=True, **stops)
    driver.run()

    assert silent.task.text.split() == words[:4]
    assert loud.task.text.split() == words[:5]
    assert silent.ids == loud.ids == [int(word) for word in words[:5]]
    assert silent.task.answers[-1]["stop_reason"][0] == words[4].encode()


class BadWords(Words):
    """Cannot tell some tokens."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def texts(self, params: SamplingParams, prompt: Any) -> Any:
        texts = super().texts(params, prompt)
        if prompt[0] == 63:
            texts._increments.push = self._push  # type: ignore[attr-defined]
        return texts

    def _push(self, token: int) -> str:
        raise self._error


class Panic(BaseException):
    """As those of libraries in Rust."""


@pytest.mark.parametrize("error", [ValueError("secret"), Panic(), InvalidArgument("no such token")])
def test_a_text_that_cannot_be_told_fails_alone(error: BaseException) -> None:
    """And the scribe goes on."""
    driver = driver_of()
    driver.preparer._text = BadWords(error)

    bad = driver.ask([63, 1], max_tokens=5)
    good = driver.ask([1, 2], max_tokens=5)
    driver.run()

    assert isinstance(bad.task.error, PenstockError)
    assert isinstance(bad.task.error, Internal) != isinstance(error, PenstockError)
    assert "secret" not in bad.task.error.message
    assert len(good.ids) == 5
    driver.assert_empty()


def test_a_record_that_fails_stops_no_answers() -> None:
    """Whatever is wrong with who is told of them."""
    driver = driver_of()
    driver.scribe._watcher = BrokenWatcher()

    asked = [driver.ask([1, k], max_tokens=3) for k in range(3)]
    driver.run()

    assert all(each.task.ends == 1 for each in asked)
    assert driver.engine.stats().running == 0


class BrokenWatcher:
    """Counts nothing."""

    def ended(self, generation: Any, error: Any) -> None:
        raise RuntimeError("the disk is full")

    def tokens(self, choice: Any, count: int, now: int) -> None:
        """Nothing."""

    def trace(self, generation: Any) -> None:
        """Nothing."""


class Records:
    """Keeps what is recorded."""

    content = False

    def __init__(self) -> None:
        self.kept: list[CallRecord] = []

    def append(self, record: CallRecord) -> bool:
        self.kept.append(record)
        return True


def test_a_record_says_once_how_each_request_ended() -> None:
    """Whole, given up, too late by whichever clock, or failed."""
    driver, records = driver_of(), Records()
    driver.scribe._watcher = EngineWatcher(
        driver.tally,
        records,  # type: ignore[arg-type] # as much of it as is asked
        driver.clock,
    )

    whole = driver.ask([1], max_tokens=3)
    given_up = driver.ask([2], max_tokens=90)
    late = driver.ask([3], max_tokens=90, deadline_ns=driver.clock.now + 4 * MS)
    told_by_others = driver.ask([4], max_tokens=90, deadline_ns=driver.clock.now + 4 * MS)
    driver.step()
    driver.step()
    given_up.task.abandon()
    driver.step()
    driver.clock.now += 5 * MS
    told_by_others.task.abandon()
    driver.run()

    statuses = [record.status for record in records.kept]
    assert statuses == ["CANCELLED", "OK", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]
    assert [record.finish_reason for record in records.kept] == ["abort", "length", *["abort"] * 2]
    assert records.kept[1].output_tokens == len(whole.ids) == 3
    assert isinstance(late.task.error, DeadlineExceeded)
