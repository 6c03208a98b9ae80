"""Laws of the NumPy references: what they give is what float64 gives, and the plan agrees."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.law import Law
from tests.kernels.laws import LAWS
from tests.kernels.obeying import obeyed

from penstock_kernels.registry import KERNELS
from penstock_kernels.run import Reference


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kernel)
@settings(max_examples=40)
@given(data=st.data())
def test_the_reference_obeys_its_law(law: Law, data: Any) -> None:
    """Equal to float64 within the tolerance, for every shape the strategy knows."""
    obeyed(law, Reference(), data.draw(law.arguments))


def test_every_kernel_has_a_law() -> None:
    """A kernel without a law would be neither executed nor compared."""
    assert {law.kernel for law in LAWS} == set(KERNELS)
