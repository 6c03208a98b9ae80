"""Laws of the CUDA source, executed on this CPU: right, and the same in every order of threads."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, ORDERS, needs_compiler
from tests.kernels.law import Law
from tests.kernels.laws import LAWS
from tests.kernels.obeying import obeyed

from penstock_kernels.emulate.runner import Emulated

pytestmark = needs_compiler


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kernel)
@settings(max_examples=25)
@given(data=st.data())
def test_the_source_obeys_its_law_in_every_order(law: Law, data: Any) -> None:
    """Equal to float64 within the tolerance, to the byte the same whichever thread comes first."""
    arguments = data.draw(law.arguments)

    answers = [obeyed(law, Emulated(CACHE, order), arguments) for order in ORDERS]

    assert len(set(answers)) == 1
