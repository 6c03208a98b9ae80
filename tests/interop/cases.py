"""What every client has to see, whatever it is written in and whatever carries the calls."""

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.interop.jobs import Job, Outcome
from tests.interop.models import BUSY_TEXT, names_request, numbers, repeat_request, request

from penstock_protos import rpc_status
from penstock_protos.inference import ModelInferResponse

OK, CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, UNAVAILABLE = 0, 1, 4, 5, 12, 14
LARGE = random.Random(8).randbytes(8 << 20)
DULL = numbers(*range(8)) * 8192
Check = Callable[[Sequence[Outcome]], None]


@dataclass(frozen=True, slots=True)
class Case:
    """A job, what its outcome must be, and whether the server has to compress what it sends.

    `then` is a job that succeeds right after, because nothing of the first one goes on.
    """

    name: str
    job: Job
    check: Check
    compressing: bool = False
    then: Job | None = None


def _only(outcomes: Sequence[Outcome], code: int = OK) -> Outcome:
    (outcome,) = outcomes
    assert (outcome.code, outcome.message) == (OK, "") or outcome.code == code != OK, outcome
    return outcome


def _same(response: ModelInferResponse, sent: bytes, id_: str) -> None:
    assert response.id == id_
    assert [output.name for output in response.outputs] == ["OUT"]
    assert response.raw_output_contents[0] == sent


def _unary(outcomes: Sequence[Outcome]) -> None:
    (response,) = _only(outcomes).responses
    _same(response, numbers(1, -2, 3), "one")


def _many(outcomes: Sequence[Outcome]) -> None:
    assert len(outcomes) == 100
    for number, outcome in enumerate(outcomes):
        (response,) = _only([outcome]).responses
        _same(response, numbers(*range(number)), f"call {number}")


_STREAMED = {"a": numbers(1, 2, 3), "b": numbers(), "c": numbers(*range(500))}


def _stream(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes)
    got = {
        id_: b"".join(r.raw_output_contents[0] for r in outcome.responses if r.id == id_)
        for id_ in _STREAMED
    }
    assert got == _STREAMED
    assert outcome.errors == []


def _ping_pong(outcomes: Sequence[Outcome]) -> None:
    responses = _only(outcomes).responses
    assert [response.id for response in responses] == [str(n) for n in range(20)]


def _in_band(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes)
    assert [BUSY_TEXT in error for error in outcome.errors] == [True]
    assert [response.id for response in outcome.responses] == ["good"]


def _late(outcomes: Sequence[Outcome]) -> None:
    assert _only(outcomes, DEADLINE_EXCEEDED).code == DEADLINE_EXCEEDED


def _late_stream(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes, DEADLINE_EXCEEDED)
    assert outcome.code == DEADLINE_EXCEEDED
    assert 0 < len(outcome.responses) < 1000


def _cancelled(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes, CANCELLED)
    assert outcome.code == CANCELLED
    assert 3 <= len(outcome.responses) < 1000


def _large(outcomes: Sequence[Outcome]) -> None:
    (response,) = _only(outcomes).responses
    _same(response, LARGE, "large")


def _compressed(outcomes: Sequence[Outcome]) -> None:
    (response,) = _only(outcomes).responses
    _same(response, DULL, "dull")


def _compressed_stream(outcomes: Sequence[Outcome]) -> None:
    responses = _only(outcomes).responses
    for number, response in enumerate(responses):
        _same(response, DULL, str(number))
    assert len(responses) == 5


def _error(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes, UNAVAILABLE)
    assert outcome.code == UNAVAILABLE
    assert outcome.message.endswith(BUSY_TEXT), outcome.message


def _error_details(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes, UNAVAILABLE)
    assert outcome.trailers["grpc-retry-pushback-ms"] == "25"
    packed = outcome.trailers["grpc-status-details-bin"]
    details = rpc_status.Status.FromString(base64.b64decode(packed, validate=True))
    assert (details.code, details.message) == (UNAVAILABLE, outcome.message)
    assert [any_.type_url.rpartition(".")[2] for any_ in details.details] == [
        "ErrorInfo",
        "RetryInfo",
    ]


def _retried(outcomes: Sequence[Outcome]) -> None:
    (response,) = _only(outcomes).responses
    assert response.raw_output_contents[0] == numbers(7)


def _unimplemented(outcomes: Sequence[Outcome]) -> None:
    assert _only(outcomes, UNIMPLEMENTED).code == UNIMPLEMENTED


def _serving(outcomes: Sequence[Outcome]) -> None:
    outcome = _only(outcomes, CANCELLED)
    assert outcome.health == "SERVING"


def _no_service(outcomes: Sequence[Outcome]) -> None:
    assert _only(outcomes, NOT_FOUND).code == NOT_FOUND


_SENT = {
    "x-plain": "some words, and ; = %20",
    "x-long": "long " * 600 + "end",
    "x-bytes-bin": base64.b64encode(bytes(range(256))).decode(),
    "x-odd-bin": base64.b64encode(b"a").decode(),
}


def _metadata(outcomes: Sequence[Outcome]) -> None:
    (response,) = _only(outcomes).responses
    expected = [_SENT["x-plain"], _SENT["x-long"], "-"]
    raw = b"".join(len(v).to_bytes(4, "little") + v.encode() for v in expected)
    assert response.raw_output_contents[0] == raw


_SLOW = request("slow", numbers(5000))
_ENDLESS = repeat_request("endless", numbers(*range(1000)), 20)
# Both models have one instance: these are answered in time only if it does nothing else any more.
_AFTER_SLOW = Job(requests=(request("slow", numbers(1)),), timeout_ms=2500)
_AFTER_ENDLESS = Job("stream", (repeat_request("after", numbers(1)),), timeout_ms=5000)

CASES: tuple[Case, ...] = (
    Case("unary", Job(requests=(request("echo", numbers(1, -2, 3), "one"),)), _unary),
    Case(
        "many",
        Job(requests=tuple(request("echo", numbers(*range(n)), f"call {n}") for n in range(100))),
        _many,
    ),
    Case(
        "stream",
        Job("stream", tuple(repeat_request(id_, raw) for id_, raw in _STREAMED.items())),
        _stream,
    ),
    Case(
        "ping-pong",
        Job(
            "stream",
            tuple(request("echo", numbers(n), str(n)) for n in range(20)),
            ping_pong=True,
        ),
        _ping_pong,
    ),
    Case(
        "in-band error",
        Job("stream", (request("busy", numbers(1)), request("echo", numbers(1), "good"))),
        _in_band,
    ),
    Case("deadline", Job(requests=(_SLOW,), timeout_ms=400), _late, then=_AFTER_SLOW),
    Case(
        "stream deadline",
        Job("stream", (_ENDLESS,), timeout_ms=1500),
        _late_stream,
        then=_AFTER_ENDLESS,
    ),
    Case(
        "cancel",
        Job("stream", (_ENDLESS,), cancel_after=3),
        _cancelled,
        then=_AFTER_ENDLESS,
    ),
    Case("large", Job(requests=(request("echo", LARGE, "large"),)), _large),
    Case("large stream", Job("stream", (request("echo", LARGE, "large"),)), _large),
    Case(
        "gzip",
        Job(requests=(request("echo", DULL, "dull"),), compression="gzip"),
        _compressed,
        compressing=True,
    ),
    Case(
        "gzip stream",
        Job(
            "stream",
            tuple(request("echo", DULL, str(n)) for n in range(5)),
            compression="gzip",
        ),
        _compressed_stream,
        compressing=True,
    ),
    Case(
        "deflate",
        Job(requests=(request("echo", DULL, "dull"),), compression="deflate"),
        _compressed,
        compressing=True,
    ),
    Case("error", Job(requests=(request("busy", numbers(1), "e"),)), _error),
    Case("error trailers", Job(requests=(request("busy", numbers(1), "e"),)), _error_details),
    Case("retry", Job(requests=(request("flaky", numbers(7)),), retries=3), _retried),
    Case("unimplemented", Job("unknown"), _unimplemented),
    Case("health", Job("health", service="readiness"), _serving),
    Case("unknown service", Job("health", service="nobody"), _no_service),
    Case("health watch", Job("watch", service=""), _serving),
    Case(
        "metadata",
        Job(requests=(names_request("x-plain", "x-long", "x-bytes-bin"),), metadata=_SENT),
        _metadata,
    ),
)
