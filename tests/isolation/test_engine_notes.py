"""Laws of what a process says of its engine: the server tells the same, or refuses it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.isolation.engine_notes import engine_note, engine_of
from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.isolation.server_reports import ToldEngine
from penstock_runtime.model_services import ModelServices
from penstock_runtime.observability.custom_metrics import CustomMetrics
from penstock_runtime.observability.engine_metrics import EngineBook, EngineState, EngineTally
from penstock_runtime.observability.engine_tables import COUNTED, HISTOGRAMS
from penstock_runtime.observability.metrics import render

from .test_messages import JSON

NAME = "m_0_0"
CACHE = {"block_size": "16", "cache_dtype": "bf16"}
AMOUNTS = st.integers(0, 10**12)
# What an engine and its scribe tell a tally.
DEEDS: st.SearchStrategy[Callable[[EngineTally], None]] = st.one_of(
    st.dictionaries(st.sampled_from(COUNTED), AMOUNTS).map(lambda a: lambda t: t.count(**a)),
    st.dictionaries(st.sampled_from(list(HISTOGRAMS)), AMOUNTS).map(
        lambda v: lambda t: t.observe(**v)
    ),
    st.tuples(AMOUNTS, st.integers(1, 9)).map(lambda g: lambda t: t.gap(*g)),
    st.text(st.characters(codec="utf-8"), max_size=8).map(lambda r: lambda t: t.finished(r)),
)
STATES = st.builds(EngineState, AMOUNTS, AMOUNTS, st.floats(0.0, 1.0), AMOUNTS, AMOUNTS, AMOUNTS)
TALLIES = st.tuples(st.lists(DEEDS, max_size=12), STATES)


def tally_of(made: tuple[list[Callable[[EngineTally], None]], EngineState]) -> EngineTally:
    """What the process counts."""
    deeds, state = made
    tally = EngineTally("m", 1, NAME, CACHE)
    tally.state = lambda: state
    for deed in deeds:
        deed(tally)
    return tally


def told_engine(book: EngineBook) -> ToldEngine:
    """What the server keeps of it."""
    services = ModelServices(Dispatch(), CustomMetrics(), engines=book)
    source = ModelSource(ModelConfig(name="m"), 1, Path("/m/1"), Path("/m"), services=services)
    return ToldEngine(source, NAME)


def passed_on(note: dict[str, Any]) -> dict[str, Any]:
    """As it arrives."""
    found: dict[str, Any] = json.loads(json.dumps(note))
    return found


def page(book: EngineBook) -> str:
    return render(book.families()).decode()


def samples(book: EngineBook) -> dict[tuple[str, str], float]:
    """Every line of a scrape, as Prometheus reads it."""
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page(book))
        for sample in family.samples
    }


def only_ever_up(name: str) -> bool:
    return name.endswith(("_total", "_count", "_bucket", "_sum"))


@given(TALLIES)
def test_whatever_a_process_has_counted_the_server_tells_the_same(made: Any) -> None:
    """Line by line, under every name that is asked for."""
    ours, theirs = EngineBook(("vllm", "otel")), EngineBook(("vllm", "otel"))
    tally = tally_of(made)
    theirs.add(tally)
    engine = told_engine(ours)

    engine.tell(engine.begin(), engine_of(passed_on(engine_note(tally.snapshot())), engine.labels))

    assert page(ours) == page(theirs)


@given(st.lists(st.tuples(st.lists(TALLIES, max_size=3), st.booleans()), max_size=4))
def test_no_counter_ever_goes_back_however_many_processes_come_and_go(lives: Any) -> None:
    """Each begins at nothing; what those before it had counted is kept, and how they were is not.

    Between two there are no series.
    """
    book = EngineBook()
    engine = told_engine(book)
    highest: dict[tuple[str, str], float] = {}
    for tellings, says_so in lives:
        number = engine.begin()
        assert book.families() == []
        deeds: list[Any] = []
        totals = EngineState()
        for more, state in tellings:
            deeds += more
            totals = EngineState(
                state.running,
                state.waiting,
                state.cache_usage,
                totals.prefix_queries + state.prefix_queries,
                totals.prefix_hits + state.prefix_hits,
                totals.preemptions + state.preemptions,
            )
            snapshot = tally_of((deeds, totals)).snapshot()

            engine.tell(number, engine_of(passed_on(engine_note(snapshot)), engine.labels))

            found = samples(book)
            for key, value in found.items():
                if only_ever_up(key[0]):
                    assert value >= highest.get(key, 0.0)
                    highest[key] = value
            (running,) = [v for k, v in found.items() if k[0].endswith("requests_running")]
            assert running == state.running
        if says_so:
            engine.hide(number)
        engine.end(number)
        assert book.families() == []


def test_what_was_counted_before_a_process_ended_is_part_of_what_is_told_after() -> None:
    """To the unit."""
    book = EngineBook()
    engine = told_engine(book)
    for tokens in (3, 4):
        tally = tally_of(([], EngineState(prefix_hits=tokens)))
        tally.count(generation_tokens=tokens)
        tally.observe(request_prompt_tokens=tokens)
        tally.finished("stop")
        number = engine.begin()
        engine.tell(number, engine_of(engine_note(tally.snapshot()), engine.labels))
        told = {name: value for (name, _), value in samples(book).items()}
        engine.end(number)

    assert told["penstock_llm_generation_tokens_total"] == 7
    assert told["penstock_llm_request_prompt_tokens_sum"] == 7
    assert told["penstock_llm_request_prompt_tokens_count"] == 2
    assert told["penstock_llm_request_success_total"] == 2
    assert told["penstock_llm_prefix_cache_hits_total"] == 7


def test_what_a_process_says_that_is_gone_or_replaced_is_not_heard() -> None:
    """Its series stay away, and the next one's are its own."""
    book = EngineBook()
    engine = told_engine(book)
    old, new = tally_of(([], EngineState(1))), tally_of(([], EngineState(2)))
    first = engine.begin()
    engine.tell(first, old.snapshot())

    engine.end(first)
    engine.tell(first, old.snapshot())
    gone = book.families()
    second = engine.begin()
    engine.tell(second, new.snapshot())
    engine.tell(first, old.snapshot())
    engine.end(first)
    told = {name: value for (name, _), value in samples(book).items()}

    assert gone == []
    assert told["penstock_llm_num_requests_running"] == 2


def test_reasons_without_end_make_no_series_without_end() -> None:
    """However many processes make them up."""
    book = EngineBook()
    engine = told_engine(book)
    for life in range(5):
        tally = tally_of(([], EngineState()))
        for number in range(64):
            tally.finished(f"because {life} {number}")
        number = engine.begin()
        engine.tell(number, engine_of(engine_note(tally.snapshot()), engine.labels))
        told = [name for name, _ in samples(book) if name == "penstock_llm_request_success_total"]
        engine.end(number)

    assert len(told) == 64


@given(TALLIES, st.data())
def test_a_malformed_note_of_an_engine_is_refused_or_told_as_metrics(made: Any, data: Any) -> None:
    """Whatever stands in one of its places; nothing of it can be a line of its own."""
    book = EngineBook()
    engine = told_engine(book)
    note = passed_on(engine_note(tally_of(made).snapshot()))
    place = data.draw(st.sampled_from(list(note)))
    if isinstance(note[place], list) and data.draw(st.booleans()):
        note[place][data.draw(st.integers(0, len(note[place]) - 1))] = data.draw(JSON)
    else:
        note[place] = data.draw(JSON)

    try:
        engine.tell(engine.begin(), engine_of(note, engine.labels))
    except BrokenProtocol:
        return

    for name, labels in samples(book):
        assert name.startswith("penstock_llm_")
        assert "('model_name', 'm')" in labels


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("cache", {"model_name": "another"}),
        ("cache", {"engine": "another"}),
        ("cache", {'x="1"} 1\nup{y': "1"}),
        ("cache", {str(number): "" for number in range(65)}),
        ("reasons", {str(number): 1 for number in range(65)}),
        ("reasons", {"stop": -1}),
        ("counts", [-1] * len(COUNTED)),
        ("counts", []),
        ("now", [1, 1, 1.5]),
        ("now", [1, 1, float("nan")]),
        ("now", [1, 1, True]),
        ("totals", [1, 2, 1 << 64]),
        ("histograms", [[0]] * len(HISTOGRAMS)),
    ],
)
def test_a_note_that_nobody_would_write_is_refused(place: str, value: Any) -> None:
    """Labels that are another's, numbers that are none, tables of another size."""
    note = passed_on(engine_note(tally_of(([], EngineState())).snapshot()))

    with pytest.raises(BrokenProtocol):
        engine_of({**note, place: value}, {"model_name": "m", "version": "1", "engine": NAME})
