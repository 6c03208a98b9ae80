"""Trace settings: read from texts, merged for all models and for single ones, and the flags."""

from typing import Any

import pytest
from hypothesis import settings as rules
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.config_sources import read_options
from penstock.trace_config import SpanExport, TraceConfig, of_process, read_trace_config
from penstock.trace_settings import (
    MOST_MODELS,
    NAMES,
    TRACE_FILE_FIXED,
    TraceSettings,
    TraceValues,
    read_setting,
)
from penstock_runtime.errors import InvalidArgument, ResourceExhausted, Unsupported
from penstock_runtime.observability.trace_level import Level

LEVELS = [("OFF",), ("TIMESTAMPS",), ("TENSORS",), ("TIMESTAMPS", "TENSORS")]
GOOD: dict[str, st.SearchStrategy[tuple[str, ...]]] = {
    "trace_level": st.sampled_from(LEVELS),
    "trace_rate": st.integers(1, 2**32 - 1).map(lambda n: (str(n),)),
    "trace_count": st.integers(-1, 2**31 - 1).map(lambda n: (str(n),)),
    "log_frequency": st.integers(0, 2**32 - 1).map(lambda n: (str(n),)),
    "trace_mode": st.sampled_from([("triton",), ("opentelemetry",)]),
}
GIVEN = st.fixed_dictionaries(
    {}, optional={name: st.one_of(st.just(()), good) for name, good in GOOD.items()}
)
SCOPES = st.sampled_from(["", "a", "b"])


class Merging(RuleBasedStateMachine):
    """The settings against a plain table of texts: a model's own, else all models', else those of
    the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.start = TraceValues(Level.TIMESTAMPS, 10, 7, 3)
        self.settings = TraceSettings(self.start)
        self.said: dict[str, dict[str, tuple[str, ...]]] = {"": {}, "a": {}, "b": {}}

    @rule(scope=SCOPES, given=GIVEN)
    def change(self, scope: str, given: dict[str, tuple[str, ...]]) -> None:
        self.settings = self.settings.changed(given, scope)
        for name, texts in given.items():
            if texts:
                self.said[scope][name] = texts
            else:
                self.said[scope].pop(name, None)

    @rule(scope=SCOPES, given=GIVEN, name=st.sampled_from(NAMES))
    def change_badly(self, scope: str, given: dict[str, tuple[str, ...]], name: str) -> None:
        before = self.settings

        with pytest.raises(InvalidArgument, match=name):
            self.settings.changed({**given, name: ("nonsense",)}, scope)

        assert self.settings == before

    @invariant()
    def what_is_in_force_is_what_was_said_last_and_nearest(self) -> None:
        for scope in ("", "a", "b", "other"):
            own = self.said.get(scope, {}) if scope else {}
            expected = {**self.start.texts(), **self.said[""], **own}
            assert self.settings.in_force(scope).texts() == expected

    @invariant()
    def a_model_without_words_of_its_own_is_not_kept(self) -> None:
        assert set(self.settings.models) == {name for name in ("a", "b") if self.said[name]}


TestMerging = Merging.TestCase
TestMerging.settings = rules(max_examples=25, stateful_step_count=12)


@pytest.mark.parametrize(
    ("name", "texts", "told"),
    [
        ("trace_level", ("OFF", "TENSORS"), "expected OFF alone, got 'OFF, TENSORS'"),
        ("trace_level", ("MAX",), "expected OFF, or TIMESTAMPS, TENSORS or both, got 'MAX'"),
        ("trace_rate", ("0",), "expected a whole number from 1 to 4294967295, got '0'"),
        ("trace_rate", ("1", "2"), "expected one value, got '1, 2'"),
        ("trace_rate", ("4294967296",), "expected a whole number from 1 to 4294967295"),
        ("trace_rate", ("1_0",), "expected a whole number"),
        ("trace_rate", ("٣",), "expected a whole number"),
        ("trace_rate", ("9" * 5000,), "expected a whole number"),
        ("trace_count", ("-2",), "expected a whole number from -1 to 2147483647, got '-2'"),
        ("trace_count", ("--1",), "expected a whole number"),
        ("log_frequency", ("-1",), "expected a whole number from 0 to 4294967295, got '-1'"),
        ("trace_mode", ("zipkin",), "expected one of triton, opentelemetry, got 'zipkin'"),
        ("trace_colour", ("red",), "unknown, expected one of trace_level, trace_rate"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(
    name: str, texts: tuple[str, ...], told: str
) -> None:
    """The text is enough to write a better one, and short."""
    with pytest.raises(InvalidArgument) as error:
        read_setting(name, texts)

    assert error.value.message.startswith(f"trace setting {name!r}: ")
    assert told in error.value.message
    assert len(error.value.message) < 400


def test_nobody_moves_the_file_from_outside() -> None:
    """Whatever else is asked, and nothing of it is done."""
    with pytest.raises(Unsupported) as error:
        TraceSettings().changed({"trace_rate": ("5",), "trace_file": ("/tmp/x",)})

    assert error.value.message == TRACE_FILE_FIXED


def test_a_mode_that_was_not_prepared_is_refused() -> None:
    """Where spans go is for the operator to say, at the start."""
    with pytest.raises(InvalidArgument, match="the server was not started for it"):
        TraceSettings().changed({"trace_mode": ("opentelemetry",)}, modes=("triton",))


def test_models_with_settings_have_a_bound() -> None:
    """Those that are there can still be changed, and cleared for others."""
    settings = TraceSettings()
    for number in range(MOST_MODELS):
        settings = settings.changed({"trace_rate": ("5",)}, f"m{number}")

    with pytest.raises(ResourceExhausted, match="1024 models have trace settings"):
        settings.changed({"trace_rate": ("5",)}, "one more")
    settings = settings.changed({"trace_rate": ("6",)}, "m0")
    settings = settings.changed({"trace_rate": ()}, "m1")
    assert settings.changed({"trace_rate": ("5",)}, "one more").in_force("one more").rate == 5


# -- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], TraceConfig()),
        (
            ["level=TIMESTAMPS", "level=TENSORS", "rate=5", "count=-1", "triton,file=/a/t.json"],
            TraceConfig(TraceValues(Level.TIMESTAMPS | Level.TENSORS, 5), "/a/t.json"),
        ),
        (
            ["triton,file=t,log-frequency=50", "level=OFF"],
            TraceConfig(TraceValues(log_frequency=50), "t"),
        ),
        (
            ["mode=opentelemetry"],
            TraceConfig(TraceValues(mode="opentelemetry"), spans=SpanExport()),
        ),
        (
            [
                "opentelemetry,url=host:4318/v1/traces",
                "opentelemetry,resource=service.name=a=b",
                "opentelemetry,resource=x=1",
                "opentelemetry,bsp_max_queue_size=20",
                "opentelemetry,bsp_schedule_delay=7",
            ],
            TraceConfig(
                spans=SpanExport(
                    "host:4318/v1/traces", {"service.name": "a=b", "x": "1"}, 20, 7, 20
                )
            ),
        ),
    ],
)
def test_flags_are_read_as_triton_documents_them(flags: list[str], expected: TraceConfig) -> None:
    """Those of all traces, and those of a mode behind its name."""
    assert read_trace_config(flags, {}) == expected


def test_opentelemetrys_own_variables_are_its_defaults() -> None:
    """A flag wins over them."""
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_BSP_MAX_QUEUE_SIZE": "9"}

    found = read_trace_config(["opentelemetry,bsp_max_queue_size=64"], environ).spans

    assert found == SpanExport(max_queue_size=64, schedule_delay_ms=100, max_batch_size=64)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("rate=0", "expected a whole number from 1"),
        ("level=ALL", "expected OFF, or TIMESTAMPS"),
        ("speed=1", "expected level=, rate=, count=, mode="),
        ("triton", "expected KEY=VALUE or one of triton, opentelemetry"),
        ("zipkin,url=a", "expected KEY=VALUE or one of triton, opentelemetry"),
        ("triton,url=a", "expected file=, log-frequency="),
        ("triton,file=", "expected file=, log-frequency="),
        ("triton,log-frequency=x", "expected a whole number from 0"),
        ("opentelemetry,bsp_max_queue_size=0", "expected a whole number from 1 to 1048576"),
    ],
)
def test_a_flag_that_means_nothing_ends_the_start(
    flag: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is bound; the message names the flag's value."""
    with pytest.raises(InvalidArgument, match=told):
        read_trace_config([flag], {})

    with pytest.raises(SystemExit):
        read_options([f"--trace-config={flag}"], {})
    assert told in capsys.readouterr().err


def test_the_environment_gives_the_flag_too() -> None:
    """Its values hold commas, so semicolons stand between them."""
    environ = {"PENSTOCK_TRACE_CONFIG": "triton,file=/t,log-frequency=2; rate=3"}

    found = read_options([], environ).trace_config

    assert read_trace_config(found, {}).values == TraceValues(rate=3, log_frequency=2)


@pytest.mark.parametrize(
    ("settings", "file"),
    [(("triton,file=a,log-frequency=1", "rate=2"), "a.process3"), (("rate=2",), "")],
)
def test_each_of_several_processes_has_a_file_of_its_own(settings: Any, file: str) -> None:
    """All else is the same."""
    found = read_trace_config(of_process(settings, 3), {})

    assert found.file == file
    assert found.values == read_trace_config(settings, {}).values
