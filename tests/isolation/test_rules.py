"""Laws of the small decisions: when a process is started again, what it is given, what is told."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    ModelParameter,
    RateLimiter,
    RateLimiterResource,
)
from penstock_runtime.config_check import check
from penstock_runtime.config_reader import read_config
from penstock_runtime.config_scheduling import SequenceBatching
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.isolation.backoff import LONGEST_S, WELL_S, Backoff
from penstock_runtime.isolation.settings import (
    EXECUTION,
    HEARTBEAT,
    MEMORY,
    STARTS,
    Settings,
    is_isolated,
    settings_of,
)
from penstock_runtime.isolation.spawn import LINES_AT_ONCE, Budget, ending, environment
from penstock_runtime.placement import placements


def test_the_first_death_costs_no_time_and_each_after_it_twice_as_much() -> None:
    """At once, then 0.1 s and so on, until it lived well."""
    backoff, delays = Backoff(10), []
    for _ in range(4):
        backoff.started(100.0)
        backoff.died(100.5)
        delays.append(backoff.delay_s)
    backoff.started(200.0)
    backoff.died(200.0 + WELL_S)

    assert delays == [0.0, 0.1, 0.2, 0.4]
    assert backoff.delay_s == 0.0


@given(st.lists(st.booleans(), max_size=200))
def test_no_delay_is_longer_than_the_longest(starts: list[bool]) -> None:
    """However often it dies; only starts in a row that fail take the hope."""
    backoff, in_a_row = Backoff(3), 0
    for works in starts:
        if works:
            backoff.started(0.0)
            backoff.died(1.0)
            in_a_row = 0
        else:
            backoff.failed()
            in_a_row += 1

        assert 0.0 <= backoff.delay_s <= LONGEST_S
        assert backoff.hopeless == (in_a_row >= 3)


def test_parameters_say_what_a_process_may() -> None:
    """Each has its usual value, its range, and an error that says both."""
    told = {HEARTBEAT: "5", EXECUTION: "0.5", MEMORY: "1048576", STARTS: "2"}
    config = ModelConfig(
        name="m", parameters={key: ModelParameter(text) for key, text in told.items()}
    )

    assert settings_of(config) == Settings(5.0, 0.5, 1 << 20, 2)
    assert settings_of(ModelConfig(name="m")) == Settings()
    for text in ("x", "nan", "-1", "1e99"):
        wrong = ModelConfig(name="m", parameters={HEARTBEAT: ModelParameter(text)})
        with pytest.raises(InvalidArgument, match=f"'m': parameter {HEARTBEAT} is"):
            settings_of(wrong)


def test_a_process_finds_the_same_modules_and_nothing_that_is_the_servers_own() -> None:
    """The server's options and its supervisor's socket stay with it."""
    given_ = {"PATH": "/bin", "PENSTOCK_AUTH": "x", "NOTIFY_SOCKET": "y", "OMP_WAIT_POLICY": "z"}

    found = environment(given_)

    assert {"PENSTOCK_AUTH", "NOTIFY_SOCKET"}.isdisjoint(found)
    assert (found["PATH"], found["OMP_WAIT_POLICY"]) == ("/bin", "z")
    places = found["PYTHONPATH"].split(os.pathsep)
    assert set(places) == {place or os.getcwd() for place in sys.path}


def test_a_process_that_prints_without_end_is_told_of_in_part() -> None:
    """So many lines at once, then so many a second; the rest is counted."""
    budget = Budget()

    told = sum(budget.allows(1.0) for _ in range(2000))

    assert told == LINES_AT_ONCE
    assert budget.take_dropped() == 2000 - told
    assert budget.allows(2.0)
    assert budget.take_dropped() == 0


def test_ends_are_told_in_words() -> None:
    """An exit code, or a signal by its name if it has one."""
    told = [ending(0), ending(3), ending(-9), ending(-99)]

    assert told == [
        "ended with exit code 0",
        "ended with exit code 3",
        "was ended by signal 9 (SIGKILL)",
        "was ended by signal 99",
    ]


def test_processes_are_on_the_cpu_unless_gpus_are_named() -> None:
    """One place per instance, and each says that it has a process."""
    groups = (InstanceGroup(kind="KIND_PROCESS", count=2),)
    cpu = ModelConfig(name="m", instance_group=groups)
    gpu = ModelConfig(name="m", instance_group=(InstanceGroup(kind="KIND_PROCESS", gpus=(1,)),))

    here = placements(cpu, uses_gpu=True, devices=2)
    there = placements(gpu, uses_gpu=True, devices=2)

    assert [(p.name, p.device, p.process) for p in here] == [
        ("m_0_0", "cpu", True),
        ("m_0_1", "cpu", True),
    ]
    assert [(p.name, p.device, p.process) for p in there] == [("m_0_0_gpu1", "cuda:1", True)]
    assert is_isolated(cpu)
    assert not is_isolated(ModelConfig(name="m"))


@pytest.mark.parametrize("kind", ["KIND_PROCESS", 1001, "1001"])
def test_the_kind_is_known_by_its_name_and_its_number(kind: object) -> None:
    """As clients and files may write it; Triton's next numbers stay free."""
    config = read_config({"name": "m", "instance_group": [{"kind": kind}]})

    assert config.instance_group[0].kind == "KIND_PROCESS"
    for number in (4, 1000, 1002):
        with pytest.raises(InvalidArgument):
            read_config({"name": "m", "instance_group": [{"kind": number}]})


def test_a_model_is_apart_as_a_whole_or_not_at_all() -> None:
    """An instance in the server would undo what the others are apart for."""
    groups = (InstanceGroup(kind="KIND_PROCESS"), InstanceGroup(kind="KIND_CPU"))

    with pytest.raises(InvalidArgument, match="with and without KIND_PROCESS"):
        check(ModelConfig(name="m", backend="python", instance_group=groups))


def test_sequences_that_need_resources_are_not_apart() -> None:
    """Who waits for those with a step in hand does not see a process end."""
    needs = RateLimiter((RateLimiterResource("r", False, 1),))
    groups = (InstanceGroup(kind="KIND_PROCESS", rate_limiter=needs),)

    with pytest.raises(InvalidArgument, match="for models with sequences that need resources"):
        check(
            ModelConfig(
                name="m",
                backend="python",
                instance_group=groups,
                sequence_batching=SequenceBatching(),
            )
        )
