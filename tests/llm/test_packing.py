"""Packing: what a forward pass is handed is what the plan says, whatever the rows."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_runtime.llm.packing import pack
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan

CPU = torch.device("cpu")


@st.composite
def plans(draw: st.DrawFn) -> tuple[StepPlan, int]:
    size = draw(st.sampled_from([1, 4, 16]))
    rows = []
    for identity in range(draw(st.integers(1, 6))):
        start, real = draw(st.integers(0, 40)), draw(st.integers(1, 20))
        drafts = draw(st.integers(0, 3)) if real == 1 else 0
        sequence = Sequence(
            identity, list(range(100, 100 + start + real)), SamplingParams(), max_tokens=9
        )
        sequence.drafts = list(range(900, 900 + drafts))
        pages = -(-(start + real + drafts) // size) + draw(st.integers(0, 2))
        sequence.blocks = [1000 * identity + 7 * page for page in range(pages)]
        count = real + drafts
        logits = draw(st.sampled_from([0, 1 + drafts, count]))
        rows.append(Row(sequence, start, count, drafts, logits))
    rows.sort(key=lambda row: not row.decodes)
    return StepPlan(tuple(rows)), size


@given(plans())
@settings(max_examples=60)
def test_each_token_is_packed_with_its_position_and_its_slot(made: tuple[StepPlan, int]) -> None:
    plan, size = made
    places = [(row, at) for row in plan.rows for at in range(row.start, row.start + row.count)]

    batch = pack(plan, size, CPU)

    assert batch.input_ids[0].tolist() == [token for row in plan.rows for token in row.tokens]
    assert batch.positions[0].tolist() == [at for _, at in places]
    assert batch.slots.tolist() == [
        row.sequence.blocks[at // size] * size + at % size for row, at in places
    ]


@given(plans())
@settings(max_examples=60)
def test_each_row_has_its_pages_and_its_length(made: tuple[StepPlan, int]) -> None:
    plan, size = made

    batch = pack(plan, size, CPU)

    assert batch.n_decodes == plan.n_decodes
    for row, span, table in zip(plan.rows, batch.spans, batch.tables.tolist(), strict=True):
        assert (span.count, span.context) == (row.count, row.start + row.count)
        assert table[: -(-span.context // size)] == row.sequence.blocks[: -(-span.context // size)]
    assert batch.contexts.tolist() == [span.context for span in batch.spans]
    assert batch.starts.tolist() == [*(span.start for span in batch.spans), batch.n_tokens]


@given(plans())
@settings(max_examples=60)
def test_the_last_tokens_of_each_row_are_wanted(made: tuple[StepPlan, int]) -> None:
    plan, size = made

    batch = pack(plan, size, CPU)

    assert batch.wanted.tolist() == [
        place
        for row, span in zip(plan.rows, batch.spans, strict=True)
        for place in range(span.end - row.logits, span.end)
    ]


def test_a_plan_without_rows_packs_nothing() -> None:
    batch = pack(StepPlan(), 16, CPU)

    assert batch.n_tokens == 0
    assert batch.spans == ()
