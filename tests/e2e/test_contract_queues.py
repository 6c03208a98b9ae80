"""The dynamic batcher and the queue policies as callers see them: what shares an execution, in what
order, and what is refused while it waits. The model is held while the requests come.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import samples, write
from tests.e2e.held import Asking
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually

CODE = """
import threading
from penstock import FP32, model

gate = threading.Event()
entered = threading.Event()
seen = []


@model(max_batch_size={rows})
def held(X: FP32[-1]) -> FP32[-1].named("Y"):
    entered.set()
    if X[0, 0] <= 1:
        gate.wait(20)
    seen.append([float(value) for value in X[:, 0]])
    return X
"""
IMPATIENT = "default_timeout_microseconds: {}"
POLICY = "dynamic_batching {{ default_queue_policy {{ {} }} }}"
WAITING = "dynamic_batching {{ max_queue_delay_microseconds: {} }}"
TWO = "instance_group { count: 2 kind: KIND_CPU }"
SHORTENED = IMPATIENT.format(60_000_000) + " allow_timeout_override: true"
LEVELS = """
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  priority_queue_policy { key: 1 value { max_queue_size: 1 } }
}
"""
MODELS: dict[str, tuple[int, str]] = {
    "plain": (8, "dynamic_batching { }"),
    "preferred": (8, "dynamic_batching { preferred_batch_size: [ 4 ] }"),
    "patient": (8, WAITING.format("60000000 preferred_batch_size: [ 2 ]")),
    "hasty": (8, WAITING.format(20000)),
    "full": (8, POLICY.format("max_queue_size: 2")),
    "impatient": (8, POLICY.format(IMPATIENT.format(20_000))),
    "shortened": (8, POLICY.format(SHORTENED)),
    "stubborn": (8, POLICY.format(IMPATIENT.format(60_000_000))),
    "endless": (8, POLICY.format("allow_timeout_override: true")),
    "strict": (8, POLICY.format(IMPATIENT.format(20_000) + " allow_timeout_override: true")),
    "delaying": (1, POLICY.format(SHORTENED + " timeout_action: DELAY")),
    "levels": (1, LEVELS),
    "ordered": (1, "dynamic_batching { preserve_ordering: true } " + TWO),
    "late": (1, "dynamic_batching { }"),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model for each policy."""
    root = tmp_path_factory.mktemp("queues")
    for name, (rows, config) in MODELS.items():
        write(root, name, CODE.format(rows=rows), config)
    code = CODE.replace("(max_batch_size={rows})", "")
    write(root, "alone", code, "max_batch_size: 8")
    with ServerThread(options([root])) as made:
        yield made


@pytest.fixture
def asking(running: Running, request: pytest.FixtureRequest) -> Iterator[Asking]:
    """Requests to the model that the test names, while it is held."""
    made = Asking(running, request.param)
    try:
        made.hold()
        yield made
    finally:
        made.close()


def of(model: str) -> pytest.MarkDecorator:
    """The test asks this model."""
    return pytest.mark.parametrize("asking", [model], indirect=True)


@of("plain")
def test_what_waits_shares_an_execution_up_to_the_maximum(asking: Asking) -> None:
    """Requests of several rows among them, none of which is split; statistics tell."""
    asking.queue(2)
    asking.queue(3, rows=5)
    asking.queue(4, rows=4)

    assert asking.let_go(4) == [[1], [2, 3, 3, 3, 3, 3], [4, 4, 4, 4]]
    snapshot = asking.served.statistics.snapshot()
    assert (snapshot.execution_count, snapshot.inference_count) == (3, 11)


@of("alone")
def test_without_the_block_nothing_is_merged(asking: Asking) -> None:
    """Though the model could take eight rows."""
    asking.queue(2)
    asking.queue(3, rows=2)

    assert asking.let_go(3) == [[1], [2], [3, 3]]


@of("preferred")
def test_a_preferred_size_is_cut_off_what_waits(asking: Asking) -> None:
    """Six wait: four go together, the other two after them."""
    for value in range(2, 8):
        asking.queue(value)

    assert asking.let_go(7) == [[1], [2, 3, 4, 5], [6, 7]]


@of("plain")
def test_another_shape_ends_a_batch(asking: Asking) -> None:
    """And keeps its place."""
    asking.queue(2)
    asking.queue(3, length=2)
    asking.queue(4)

    assert asking.let_go(4) == [[1], [2], [3], [4]]


def test_a_delay_waits_for_company_and_no_longer(running: Running) -> None:
    """A preferred size leaves at once, however long the delay; one alone leaves when it ends."""
    patient, hasty = Asking(running, "patient"), Asking(running, "hasty")
    try:
        patient.queue(5)
        patient.send(6)
        hasty.send(7)

        assert sorted([patient.next(), patient.next()]) == [5, 6]
        assert patient.inside["seen"] == [[5, 6]]
        assert hasty.next() == 7
    finally:
        patient.close()
        hasty.close()


@of("full")
def test_a_full_queue_refuses(asking: Asking) -> None:
    """UNAVAILABLE, and those that wait are answered."""
    asking.queue(2)
    asking.queue(3)

    asking.send(4)
    refused = asking.next()

    assert refused.status() == "StatusCode.UNAVAILABLE"
    assert refused.message() == "[request id: <id_unknown>] Exceeds maximum queue size"
    assert asking.let_go(3) == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("asking", "timeout"),
    [("impatient", None), ("shortened", 1000), ("strict", 60_000_000)],
    indirect=["asking"],
)
def test_a_time_out_in_the_queue_rejects(asking: Asking, timeout: int | None) -> None:
    """The model's own, or a shorter one of the request where that is allowed; never a longer one.
    While the instance is busy, as a timer sees to it.
    """
    asking.send(2, timeout=timeout)
    refused = asking.next()

    assert refused.status() == "StatusCode.UNAVAILABLE"
    assert refused.message() == "[request id: <id_unknown>] Request timeout expired"
    assert asking.let_go(1) == [[1]]


@pytest.mark.parametrize("asking", ["stubborn", "endless"], indirect=True)
def test_a_time_out_that_may_not_be_given_is_none(asking: Asking) -> None:
    """Without leave to override, or without a default to shorten; its time is over when the next
    one waits.
    """
    asking.queue(2, timeout=1)
    asking.queue(3)

    assert asking.let_go(3) == [[1], [2, 3]]


@of("delaying")
def test_a_time_out_may_delay_instead(asking: Asking) -> None:
    """Who is late is served after all who are not."""
    asking.queue(2, timeout=1)
    asking.queue(3)
    asking.queue(4)

    assert asking.let_go(4) == [[1], [3], [4], [2]]


@of("levels")
def test_a_higher_priority_goes_first(asking: Asking) -> None:
    """None, and one above the levels, are the default; each level has its own policy."""
    asking.queue(2, priority=2)
    asking.queue(3)
    asking.queue(4, priority=9)
    asking.queue(5, priority=1)

    asking.send(6, priority=1)
    refused = asking.next()

    assert "Exceeds maximum queue size" in refused.message()
    assert asking.let_go(5) == [[1], [5], [2], [3], [4]]


@of("ordered")
def test_answers_keep_the_order_of_their_requests_where_that_is_wanted(asking: Asking) -> None:
    """The second is executed beside the first and waits for it."""
    asking.send(2)
    eventually(lambda: asking.inside["seen"] == [[2.0]], "the second is executed")

    assert asking.answers.empty()
    asking.inside["gate"].set()
    assert [asking.next(), asking.next()] == [1, 2]


@of("late")
def test_who_is_late_or_leaves_is_not_executed(asking: Asking, running: Running) -> None:
    """A deadline of gRPC's is one of the queue; a caller that cancels is counted as one."""
    counted = 'nv_inference_request_failure{model="late",reason="CANCELED",version="1"}'
    before = samples(running)[counted]
    call = asking.queue(2)
    asking.send(3, client_timeout=0.1)

    late = asking.next()
    call.cancel()
    gone = asking.next()
    eventually(lambda: not asking.served.queue_stats().requests, "nothing waits")

    assert late.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert gone.status() == "StatusCode.CANCELLED"
    assert asking.let_go(1) == [[1]]
    assert samples(running)[counted] == before + 1


def test_the_configuration_says_what_the_batcher_does(running: Running) -> None:
    """Without sizes the preferred one is the maximum; the rest is as it was written."""
    with triton.InferenceServerClient(running.target) as client:
        plain = client.get_model_config("plain").config
        levels = client.get_model_config("levels").config.dynamic_batching

    assert list(plain.dynamic_batching.preferred_batch_size) == [8]
    assert plain.version_policy.latest.num_versions == 1
    assert [group.count for group in plain.instance_group] == [1]
    assert (levels.priority_levels, levels.priority_queue_policy[1].max_queue_size) == (2, 1)


def test_the_hook_of_tritons_tests_holds_the_batcher_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRITONSERVER_DELAY_SCHEDULER=3: nothing before three wait, and then as ever."""
    write(tmp_path, "plain", CODE.format(rows=8), "dynamic_batching { }")
    monkeypatch.setenv("TRITONSERVER_DELAY_SCHEDULER", "3")
    with ServerThread(options([tmp_path])) as running:
        asking = Asking(running, "plain")
        try:
            for value in (2, 3, 4):
                asking.send(value)
            together = sorted(asking.next() for _ in range(3))
            asking.send(5)

            assert together == [2, 3, 4]
            assert asking.next() == 5
            assert [len(rows) for rows in asking.inside["seen"]] == [3, 1]
        finally:
            asking.close()
