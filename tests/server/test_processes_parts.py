"""What several processes are made of, each by itself: the port that is held, the scrapes that are
merged, the channel between supervisor and process, lines that are told apart, the pause before a
restart.
"""

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock.app import serve
from penstock.config import ServerOptions
from penstock.drain import StopRequest
from penstock.log_writer import in_pieces
from penstock.logs import configure
from penstock.merged_metrics import labelled, merged
from penstock.reserved_ports import reserved
from penstock.supervisor import worker_options
from penstock.transport.http2.sockets import listen
from penstock.worker_channel import LISTENING, Assignment, SupervisorEnd, WorkerEnd
from penstock.worker_process import (
    CALM_S,
    FIRST_DELAY_S,
    LAST_DELAY_S,
    environment,
    exit_code,
    how_it_ended,
    next_delay_s,
)
from penstock.worker_server import WorkerStop
from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.observability.access_log import AccessEntry
from penstock_runtime.observability.metrics import Family, Sample, render

# -- the port ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_reserved_port_is_a_real_one_that_several_can_listen_on(host: str) -> None:
    """Port 0 becomes a number, which is held until the end of the block."""
    with reserved([f"{host}:0"]) as (address,):
        first, _ = listen(address, reuse_port=True)
        second, _ = listen(address, reuse_port=True)
        for one in (*first, *second):
            one.close()
        alone = socket.socket()
        with alone, pytest.raises(OSError, match="in use"):
            alone.bind(("127.0.0.1", int(address.rpartition(":")[2])))

    assert not address.endswith(":0")
    sockets, _ = listen(address, reuse_port=False)
    for one in sockets:
        one.close()


def test_a_port_of_others_is_taken_even_if_they_share_it() -> None:
    """Unless sharing it with others was asked for."""
    theirs, address = listen("127.0.0.1:0", reuse_port=True)
    with theirs[0]:
        with pytest.raises(FailedPrecondition, match="in use"), reserved([address]):
            pass
        with reserved([address], shared=True) as same:
            pass

    assert same == (address,)


def test_an_address_that_is_not_ours_is_refused_in_words() -> None:
    """The text names it."""
    with pytest.raises(FailedPrecondition, match=r"192\.0\.2\.1"), reserved(["192.0.2.1:0"]):
        pass


# -- the scrape ----------------------------------------------------------------------------------


def test_families_are_merged_and_samples_are_labelled() -> None:
    """One HELP and TYPE for each, in the order in which they were first seen."""
    a = Family("a", "gauge", "what a is", (Sample(1), Sample(2, {"model": "m"})))
    b = Family("b_total", "counter", "what b is", (Sample(3, {"model": 'q"}, process="'}),))

    text = merged({"0": render([a]), "1": render([a, b]), "2": b""}).decode()

    assert text.splitlines() == [
        "# HELP a what a is",
        "# TYPE a gauge",
        'a{process="0"} 1',
        'a{process="0",model="m"} 2',
        'a{process="1"} 1',
        'a{process="1",model="m"} 2',
        "# HELP b_total what b is",
        "# TYPE b_total counter",
        r'b_total{process="1",model="q\"}, process=\""} 3',
    ]


def test_a_label_of_that_name_is_exported() -> None:
    """As Prometheus names a label that is in the way."""
    assert labelled('a{model="m",process="x"} 1', "2") == (
        'a{process="2",model="m",exported_process="x"} 1'
    )


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=5))
def test_any_labels_and_values_survive(given_samples: list[tuple[str, float]]) -> None:
    """A parser reads the merged text as it reads the texts it was made of."""
    samples = tuple(Sample(value, {"l": label}) for label, value in given_samples)
    text = render([Family("a", "gauge", "h", samples)])

    (family,) = text_string_to_metric_families(merged({"0": text, "1": text}).decode())

    (single,) = text_string_to_metric_families(text.decode())
    expected = [
        ({**s.labels, "process": process}, s.value) for process in "01" for s in single.samples
    ]
    assert [(s.labels, s.value) for s in family.samples] == expected


# -- the channel ---------------------------------------------------------------------------------


def test_options_arrive_as_they_were_sent() -> None:
    """Nothing is read again: what was resolved is what the process has."""
    options = ServerOptions(
        model_repository=("/a b", 'ü"\n'), drain_delay=5.0, processes=3, ignored=("x",)
    )
    sent = Assignment(2, False, 17, ("/p", ""), options)

    line = sent.encode()

    assert Assignment.decode(line) == sent
    assert line.count(b"\n") == 1


def channel_test(
    answer: Callable[[str], bytes], act: Callable[[SupervisorEnd, WorkerEnd], object]
) -> list[str]:
    """Connect the two ends, act, close; the news that came."""
    news: list[str] = []

    async def run() -> None:
        ours, theirs = socket.socketpair()
        gone = threading.Event()
        worker = WorkerEnd(theirs.detach())
        supervisor = await SupervisorEnd.open(ours, news.append)
        worker.answer(answer, gone.set)
        result = act(supervisor, worker)
        if asyncio.iscoroutine(result):
            await result
        await supervisor.close()
        await asyncio.to_thread(gone.wait, 10)
        assert gone.is_set()
        worker.close()

    asyncio.run(run())
    return news


def test_questions_are_answered_and_news_comes_between() -> None:
    """Answers find their questions; a question that fails has an empty answer."""

    def answer(question: str) -> bytes:
        if question == "bad":
            raise LookupError(question)
        return question.encode() * 100_000

    async def act(supervisor: SupervisorEnd, worker: WorkerEnd) -> None:
        worker.tell(LISTENING)
        asked = [supervisor.ask(question, 10) for question in ("a", "bad", "b")]
        answers = await asyncio.gather(*asked)
        assert answers == [b"a" * 100_000, b"", b"b" * 100_000]

    assert channel_test(answer, act) == [LISTENING]


def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    """The next question gets its own."""
    late = threading.Event()

    def answer(question: str) -> bytes:
        if question == "slow":
            late.wait(10)
        return question.encode()

    async def act(supervisor: SupervisorEnd, worker: WorkerEnd) -> None:
        assert await supervisor.ask("slow", 0.01) == b""
        late.set()
        assert await supervisor.ask("quick", 10) == b"quick"

    channel_test(answer, act)


def test_a_question_to_a_process_that_dies_is_answered_by_nothing() -> None:
    """At once, and so is every later one."""

    async def run() -> tuple[bytes, bytes]:
        ours, theirs = socket.socketpair()
        supervisor = await SupervisorEnd.open(ours, lambda _: None)
        asked = asyncio.ensure_future(supervisor.ask("a", 60))
        await asyncio.sleep(0)
        theirs.close()
        first = await asked
        second = await supervisor.ask("b", 60)
        await supervisor.close()
        return first, second

    assert asyncio.run(run()) == (b"", b"")


# -- lives ---------------------------------------------------------------------------------------


def test_the_pause_before_a_restart_doubles_in_bounds() -> None:
    """From half a second to half a minute, and from the beginning after a calm life."""
    pauses = [next_delay_s(0, 0)]
    for _ in range(9):
        pauses.append(next_delay_s(pauses[-1], 1.0))

    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert (pauses[0], pauses[-1]) == (FIRST_DELAY_S, LAST_DELAY_S)
    assert next_delay_s(LAST_DELAY_S, CALM_S) == FIRST_DELAY_S


@pytest.mark.parametrize(
    ("code", "shown", "words"),
    [(3, 3, "exit code 3"), (-9, 137, "by SIGKILL"), (-200, 328, "by signal 200")],
)
def test_an_end_is_told_as_a_shell_does(code: int, shown: int, words: str) -> None:
    """A signal is 128 and its number."""
    assert exit_code(code) == shown
    assert words in how_it_ended(code)


def test_only_the_supervisor_makes_a_process_hurry() -> None:
    """Signals that come again change nothing."""
    stop = WorkerStop()
    stop.hasten()

    stop.ask("SIGTERM", 1.0)
    stop.ask("SIGINT")

    assert (stop.wanted.is_set(), stop.hurry.is_set()) == (True, False)
    assert (stop.reason, stop.delay_s) == ("SIGTERM", 1.0)
    stop.hasten()
    assert stop.hurry.is_set()
    assert isinstance(stop, StopRequest)


def test_each_process_has_its_share_of_the_memory_and_all_else_alike() -> None:
    """The bound holds for the server; ports are shared, and metrics are the supervisor's."""
    options = ServerOptions(processes=4, max_inflight_bytes=1000, grpc_max_concurrent_rpcs=7)

    resolved = worker_options(options, ("127.0.0.1:5",))

    assert resolved.max_inflight_bytes == 250
    assert (resolved.reuse_grpc_port, resolved.allow_metrics) == (True, False)
    changed = "grpc_address reuse_grpc_port reuse_http_port allow_metrics max_inflight_bytes"
    back = {name: getattr(options, name) for name in changed.split()}
    assert replace(resolved, **back) == options


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, ()),
        ({"response_cache_byte_size": 4000}, ("local,size=1000",)),
        ({"cache_config": ("local,size=4000", "ttl=2.5")}, ("local,size=1000,ttl=2.5",)),
    ],
)
def test_the_response_cache_is_shared_out_too(
    given: dict[str, Any], share: tuple[str, ...]
) -> None:
    """Its size is the server's, not that of each process."""
    resolved = worker_options(ServerOptions(processes=4, **given), ("127.0.0.1:5",))

    assert (resolved.cache_config, resolved.response_cache_byte_size) == (share, 0)


def test_the_cores_are_shared_out_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process has at least one thread for numeric libraries."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))

    shares = [int(environment(count)["OMP_NUM_THREADS"]) for count in (1, cores, 4 * cores)]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    assert shares == [cores, 1, 1]
    assert environment(2)["OMP_NUM_THREADS"] == "7"


def test_a_server_in_this_process_refuses_to_be_several() -> None:
    """The option is for the command line."""
    with pytest.raises(InvalidArgument, match="penstock serve"):
        asyncio.run(serve(ServerOptions(processes=2)))


# -- the log -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_format", "mark"), [("human", "Z [3] INFO access"), ("json", '{"process": 3, "time"')]
)
def test_every_line_of_a_process_bears_its_number(log_format: str, mark: str) -> None:
    """Access entries as well."""
    data: list[bytes] = []
    logs = configure(log_format, write=data.append, process=3)  # type: ignore[arg-type]
    logs.access.record(AccessEntry(0, "ModelInfer", "OK"))

    logs.close()

    assert mark in b"".join(data).decode()


@given(st.lists(st.integers(0, 40)), st.integers(1, 30))
def test_pieces_are_whole_lines(lengths: list[int], size: int) -> None:
    """None is larger than allowed unless a single line is, and nothing is lost."""
    pieces: list[bytes] = []
    data = b"".join(b"x" * length + b"\n" for length in lengths)

    in_pieces(pieces.append, size)(data)

    assert b"".join(pieces) == data
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= size or piece.count(b"\n") == 1 for piece in pieces)


def test_lines_of_two_writers_of_one_pipe_are_not_torn() -> None:
    """However full the pipe is."""
    reading, writing = os.pipe()
    text = {mark: (mark * 99 + b"\n") * 2000 for mark in (b"a", b"b")}
    write = in_pieces(lambda data: os.write(writing, data), select.PIPE_BUF)
    writers = [threading.Thread(target=write, args=(data,)) for data in text.values()]
    for writer in writers:
        writer.start()

    with open(reading, "rb") as file:
        lines = [file.readline() for _ in range(4000)]

    for writer in writers:
        writer.join()
    os.close(writing)
    assert set(lines) == {b"a" * 99 + b"\n", b"b" * 99 + b"\n"}
