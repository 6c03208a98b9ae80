"""Laws of the records of calls that a process tells: they arrive as they were, or are refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.isolation.call_notes import record_note, record_of
from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.llm.calls import CallRecord

from .test_engine_notes import AMOUNTS, passed_on
from .test_messages import JSON

TEXTS = st.text(max_size=12) | st.just("half of \ud83d")
PLAIN = st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
MS = st.none() | st.floats(0, 1e12)
RECORDS = st.builds(
    CallRecord,
    time_ns=st.integers(0, 4 * 10**18),
    model=st.just("m"),
    version=st.just("1"),
    id=TEXTS,
    tenant=TEXTS,
    prompt_tokens=AMOUNTS,
    output_tokens=AMOUNTS,
    cached_tokens=AMOUNTS,
    finish_reason=TEXTS,
    status=st.sampled_from(["OK", "CANCELLED"]),
    error=TEXTS,
    ttft_ms=MS,
    itl_mean_ms=MS,
    queue_ms=MS,
    total_ms=MS,
    parameters=st.dictionaries(
        st.sampled_from(["seed", "stop", "temperature"]), PLAIN | st.lists(PLAIN).map(tuple)
    ),
    prompt=TEXTS,
    answer=TEXTS,
)


@given(RECORDS, st.booleans())
def test_a_record_of_a_call_arrives_as_it_was(record: CallRecord, content: bool) -> None:
    """With its texts only where they are wanted."""
    note = passed_on(record_note(record, content))

    found = record_of(note, "m", "1", content)

    wanted, told = record.document(content), found.document(content)
    assert json.dumps(told) == json.dumps(wanted)
    assert content or (found.prompt, found.answer) == ("", "")
    assert content or not {"prompt", "answer"} & note.keys()


@given(RECORDS, st.data())
def test_a_malformed_record_is_refused_or_can_be_written(record: CallRecord, data: Any) -> None:
    """It is a record of the model's own, and has a date."""
    note = passed_on(record_note(record, True))
    note[data.draw(st.sampled_from([*note, "model", "else"]))] = data.draw(JSON)

    try:
        found = record_of(note, "m", "1", True)
    except BrokenProtocol:
        return

    assert json.loads(json.dumps(found.document(True)))["model"] == "m"


@pytest.mark.parametrize("note", [None, [], {}, {"id": "no time"}, {"time_ns": 1, "model": "x"}])
def test_a_record_that_is_none_is_refused(note: Any) -> None:
    """Whose call it is, it does not say."""
    with pytest.raises(BrokenProtocol):
        record_of(note, "m", "1", True)


@given(JSON)
def test_a_record_that_is_anything_is_refused(value: Any) -> None:
    """Or makes sense."""
    try:
        record_of(value, "m", "1", True)
    except BrokenProtocol:
        return
