"""A comparison of servers: its arithmetic, what it starts, and what it says."""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks.peers.probe import bodies
from benchmarks.peers.process import Launch, PeerError, cpu_seconds, started
from benchmarks.peers.servers import Place, launch
from benchmarks.side_by_side import idle, load
from benchmarks.side_by_side.cases import (
    CACHE,
    CASES,
    CPP,
    GRPCIO,
    HTTP2,
    P99,
    PER_CPU_S,
    PER_S,
    TRITON,
    Floor,
)
from benchmarks.side_by_side.lineup import Server, wanted
from benchmarks.side_by_side.picture import picture
from benchmarks.side_by_side.readings import (
    Reading,
    Verdict,
    judge,
    median_of,
    ratio,
    reading_of,
    spread_of,
)
from benchmarks.side_by_side.rounds import Plan, command, written
from benchmarks.side_by_side.tables import Result, finding_of, notes_of, overview, sentence
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.histogram import Histogram
from penstock.bench.sample import Level, Sample

ONE = Reading(
    per_s=1000,
    per_cpu_s=2000,
    responses_per_s=1000,
    p50_ms=1,
    p99_ms=4,
    client_cpu=0.5,
    resident_mb=50,
)
CORE = min(os.sched_getaffinity(0))
POSITIVE = st.floats(1e-3, 1e6)


def reading(**changes: float) -> Reading:
    return replace(ONE, **changes)


def case(name: str) -> int:
    return next(at for at, each in enumerate(CASES) if each.name == name)


@given(st.lists(POSITIVE, min_size=1, max_size=7))
def test_a_median_lies_among_its_rounds_and_no_error_is_lost(rates: list[float]) -> None:
    """One slow round does not move a figure, but a failed call stays in sight."""
    found = median_of([reading(per_s=rate, errors=1) for rate in rates])

    assert min(rates) <= found.per_s <= max(rates)
    assert found.errors == len(rates)
    assert found.p99_ms == ONE.p99_ms


def test_the_spread_is_the_range_over_the_median() -> None:
    """Rounds of 90, 100 and 120 lie 30 % apart."""
    rounds = [reading(per_s=rate) for rate in (100, 90, 120)]

    assert spread_of(rounds, PER_S) == pytest.approx(0.3)


@given(ours=POSITIVE, theirs=POSITIVE)
def test_a_ratio_turned_round_is_its_inverse(ours: float, theirs: float) -> None:
    """Who stands above whom does not matter."""
    one, other = reading(per_s=ours), reading(per_s=theirs)

    there, back = ratio(PER_S, one, other), ratio(PER_S, other, one)

    assert there is not None
    assert back is not None
    assert there * back == pytest.approx(1)


@pytest.mark.parametrize(("ours", "theirs"), [(None, ONE), (ONE, None), (ONE, reading(per_s=0))])
def test_what_was_not_measured_has_no_ratio(ours: Reading | None, theirs: Reading | None) -> None:
    """A server that is missing or answered nothing is neither beaten nor wins."""
    assert ratio(PER_S, ours, theirs) is None


@pytest.mark.parametrize(
    ("floor", "found", "holds"),
    [
        (Floor(PER_S, 15), 15.0, True),
        (Floor(PER_S, 15), 14.99, False),
        (Floor(PER_S, 1, above=True), 1.0, False),
        (Floor(PER_S, 1, above=True), 1.01, True),
        (Floor(P99, 0.5), 0.5, True),
        (Floor(P99, 0.5), 0.51, False),
        (Floor(PER_S, 2), None, False),
    ],
)
def test_a_floor_holds_from_its_bound_on(floor: Floor, found: float | None, holds: bool) -> None:
    """At the bound it holds unless more is asked for, and never without a measurement."""
    assert Verdict(floor, found).holds is holds


def test_a_floor_compares_the_two_servers_that_it_names() -> None:
    """3x the cache hit is not 3x Triton."""
    floor = Floor(PER_CPU_S, 3, against=CACHE)
    medians = {HTTP2: ONE, TRITON: ONE, CACHE: reading(per_cpu_s=500)}

    verdicts = judge([floor], medians)

    assert [each.ratio for each in verdicts] == [4]
    assert sentence(verdicts[0]) == (f"{HTTP2} at least 3x {CACHE} in req/cpu-s: 4.00x, holds")


def test_what_a_generator_prints_becomes_a_reading() -> None:
    """Calls per second of CPU are those of the same window; lost idle connections are errors."""
    printed = {"seconds": 2, "ok": 600, "server_cpu_s": 1.5, "client_cpu_s": 1, "errors": 3}

    found = reading_of({**printed, "rps": 300, "msgs_per_s": 300}, 70.0, lost=2)

    assert (found.per_cpu_s, found.client_cpu, found.errors) == (400, 0.5, 5)
    assert found.resident_mb == 70


def test_a_generator_that_measured_nothing_gives_zeros() -> None:
    """No window is no division by zero."""
    assert reading_of({}, 0.0).per_cpu_s == 0


def test_a_sample_is_printed_with_the_keys_that_are_read() -> None:
    """The two ends of the pipe agree."""
    latencies = Histogram()
    latencies.add_all([1_000_000] * 99 + [9_000_000])
    sample = Sample(Level(4), 2_000_000_000, 100, 100, latencies, server_cpu_s=0.5)

    found = reading_of(json.loads(json.dumps(load.figures(sample))), 1.0)

    assert (found.per_s, found.per_cpu_s) == (50, 200)
    assert found.p50_ms == pytest.approx(1, rel=0.01)
    assert found.p99_ms == pytest.approx(1, rel=0.01)


def test_every_floor_is_between_servers_of_its_case() -> None:
    """No floor can be left unmeasured because nobody starts its servers."""
    for each in CASES:
        for floor in each.floors:
            assert {floor.ours, floor.against} <= set(each.peers), floor


def test_a_server_is_started_once_with_all_models_that_its_cases_need() -> None:
    """The lineup is what the cases ask for, and nothing more."""
    found = wanted([CASES[case("echo")], CASES[case("mlp")], CASES[case("tls")]])

    assert found[HTTP2, False] == ["echo", "mlp"]
    assert found[GRPCIO, False] == ["echo"]
    assert found[HTTP2, True] == ["echo"]
    assert (GRPCIO, True) not in found


def spec(name: str, other: Path | None, root: Path | None = None) -> list[str]:
    """The command of the load of a case, on a server that need not run."""
    with started(Launch([sys.executable, "-c", "input()"]), Path("."), CORE) as running:
        server = Server("127.0.0.1:1", running, root)
        return command(CASES[case(name)], server, Plan(1, 1.5, 0.4, 1, other), [Path("body")])


def test_another_generator_is_used_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS and fresh metadata come from our own, everything else from the one that was named."""
    monkeypatch.chdir(tmp_path)
    other = Path("gload")

    heads = {name: spec(name, other)[0] for name in ("echo", "stream8", "fresh", "tls")}

    assert heads == {
        "echo": "gload",
        "stream8": "gload",
        "fresh": sys.executable,
        "tls": sys.executable,
    }


def test_our_generator_takes_every_command_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No case asks for an option that is not there."""
    monkeypatch.chdir(tmp_path)

    for each in CASES:
        words = spec(each.name, None, Path("root.pem") if each.load.secure else None)
        chosen = load.options().parse_args(words[3:])

        assert chosen.connections == each.load.connections
        assert chosen.fresh is each.load.fresh
        assert bool(chosen.root) is each.load.secure


def test_texts_are_as_many_as_asked_for_and_the_same_each_time() -> None:
    """Every server meets the same mixture of lengths."""
    sent = bodies("embed", (1, 1), 16)

    assert len(sent) == len(set(sent)) == 16
    assert len({len(each) for each in sent}) > 8
    assert sent == bodies("embed", (1, 1), 16)


def test_all_bodies_of_a_load_are_sent_in_turn(tmp_path: Path) -> None:
    """Each file that is written is named to the generator."""
    embed = CASES[case("embed")].load

    paths = written(embed, tmp_path)

    assert [each.read_bytes() for each in paths] == bodies("embed", embed.shape, embed.texts)
    assert written(embed, tmp_path) == paths


TREE = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input()'],"
    " stdin=subprocess.PIPE); print('up', flush=True); child.wait()"
)


def test_nothing_of_a_server_is_left(tmp_path: Path) -> None:
    """Its children are counted while it runs, and gone when the block is."""
    with started(Launch([sys.executable, "-c", TREE]), tmp_path, CORE) as running:
        while not (tmp_path / "log").read_text():
            running.check()
        pids = running.pids()

        assert len(pids) == 2
        assert running.resident_mb() > 1
        assert cpu_seconds(pids) >= 0

    assert running.pids() == []


def test_a_server_that_ends_says_what_it_printed(tmp_path: Path) -> None:
    """The reason is in the report, not in a log that is gone."""
    with started(Launch([sys.executable, "-c", "exit('no such port')"]), tmp_path, CORE) as running:
        running.process.wait()

        with pytest.raises(PeerError, match="exit code 1: no such port"):
            running.check()


def test_a_peer_that_is_not_installed_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving out is not failing."""
    monkeypatch.setattr("benchmarks.peers.triton.PEERS", tmp_path)

    with pytest.raises(PeerError, match="not installed"):
        launch(TRITON, Place(1, tmp_path, ("echo",)))


def test_an_idle_connection_that_the_server_closes_is_counted() -> None:
    """One of two stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                connection.recv(4096)
                connection.sendall(b"settings")
                kept.append(connection)

        server = threading.Thread(target=serve)
        server.start()
        with idle.idle_connections(f"127.0.0.1:{listener.getsockname()[1]}", 2) as opened:
            server.join()
            kept[0].recv(4096)
            kept[0].close()
            opened[0].setblocking(True)
            opened[0].recv(4096, socket.MSG_PEEK)
            found = idle.lost(opened)
            kept[1].close()

    assert found == 1


def results(echo: Mapping[str, Reading]) -> list[Result]:
    return [Result(CASES[case("echo")], {peer: [each] * 3 for peer, each in echo.items()})]


LINEUP = {
    HTTP2: reading(per_cpu_s=100_000, client_cpu=0.99),
    GRPCIO: reading(per_cpu_s=3_000),
    TRITON: reading(per_cpu_s=5_000),
    CPP: reading(per_cpu_s=50_000),
}


def test_a_table_has_a_row_for_each_server_that_was_measured() -> None:
    """The one without a reading is absent, its floor is not measured, and ratios are to Triton."""
    found = finding_of(results(LINEUP)[0])

    assert [(row[0], row[-1]) for row in found.rows] == [
        (HTTP2, "20.0x"),
        (GRPCIO, "0.60x"),
        (TRITON, "1.00x"),
        (CPP, "10.0x"),
    ]
    assert f"at least 3x {CACHE} in req/cpu-s: -, not measured" in found.summary


def test_the_overview_counts_what_holds_and_names_what_does_not() -> None:
    """One line for the record."""
    found = overview(results(LINEUP), [("startup: ready", "0.4 s", "holds")])

    assert found.summary.startswith("4 of 5 floors hold; not: echo: ")
    assert [row[2] for row in found.rows].count("holds") == 4


def test_a_generator_that_was_the_limit_is_told() -> None:
    """Its case is named, and only then is there a note."""
    assert notes_of(results(LINEUP))[0].startswith("echo: the load generator used its whole core")
    assert notes_of(results({**LINEUP, HTTP2: ONE})) == []


def test_the_picture_has_a_bar_for_each_server_but_triton() -> None:
    """Well-formed, and a floor is drawn where there is one."""
    drawn = ET.fromstring(picture(results(LINEUP), "2 x <machine>"))

    boxes = [each for each in drawn.iter() if each.tag.endswith("rect")]
    floors = [each for each in drawn.iter() if each.tag.endswith("polyline")]
    assert len(boxes) == 1 + len(LINEUP) - 1
    assert len(floors) == 2


def test_a_picture_of_nothing_is_still_a_picture() -> None:
    """Without Triton there is nothing to compare, which is no reason to fail at the very end."""
    assert ET.fromstring(picture(results({HTTP2: ONE}), "")).tag.endswith("svg")
