"""What blocking clients do, in threads."""

from collections.abc import Callable
from itertools import islice

from benchmarks.soak.caller import Caller, Question, matrix, question, small
from benchmarks.soak.jobs import ANSWERS

from penstock import Client
from penstock.client.errors import InferenceError
from penstock.client.retry import NO_RETRIES


def one_after_another(caller: Caller) -> None:
    """A client for a few calls and a stream, and a stream that is left."""
    with Client(caller.url, transport=caller.carrier, retries=NO_RETRIES) as client:
        for model in ("echo", "twice", "echo", "slow"):
            asked = small(caller.chance, model, "blocking")
            problem = _call(client, asked)
            caller.tally.judge(caller.kind("blocking"), problem)
            caller.tally.executed += model == "twice" and not problem
        asked = question("stream100", matrix(caller.chance, (2, 8)))
        caller.tally.judge(caller.kind("blocking stream"), _stream(client, asked))
        with client.stream(asked.model, {"INPUT0": asked.answer}) as answers:
            for result in islice(answers, caller.chance.randrange(50)):
                caller.tally.judge(caller.kind("blocking answers"), asked.problem(result))
        caller.tally.ended[caller.kind("blocking stream left")] += 1


def _call(client: Client, asked: Question) -> str:
    values = asked.answer // 2 if asked.model == "twice" else asked.answer
    try:
        return asked.problem(client.infer(asked.model, {"INPUT0": values}, id=asked.id))
    except InferenceError as error:
        return str(error)


def _stream(client: Client, asked: Question) -> str:
    try:
        found = list(client.stream(asked.model, {"INPUT0": asked.answer}))
    except InferenceError as error:
        return str(error)
    wrong = next(filter(None, map(asked.problem, found)), "")
    return wrong or ("" if len(found) == ANSWERS else f"{len(found)} answers")


BLOCKING_JOBS: dict[Callable[[Caller], None], float] = {one_after_another: 1.0}
"""The seconds between two rounds of each."""
