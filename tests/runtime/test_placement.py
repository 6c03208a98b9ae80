"""Laws of placements: as many instances as the groups say, where they say, with what they need."""

import pytest
from tests.runtime.fakes import config
from tests.runtime.staffed_models import group, staffed

from penstock_runtime.backends.base import Placement
from penstock_runtime.config import InstanceGroup
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.placement import Seat, placements, seats


@pytest.mark.parametrize(
    ("uses_gpu", "devices", "kind", "expected"),
    [
        (True, 2, "KIND_AUTO", ["g_0_gpu0", "g_1_gpu0", "g_0_gpu1", "g_1_gpu1"]),
        (True, 2, "KIND_GPU", ["g_0_gpu0", "g_1_gpu0", "g_0_gpu1", "g_1_gpu1"]),
        (False, 2, "KIND_AUTO", ["g_0", "g_1"]),
        (True, 0, "KIND_AUTO", ["g_0", "g_1"]),
        (True, 2, "KIND_CPU", ["g_0", "g_1"]),
    ],
)
def test_groups_become_instances(
    uses_gpu: bool, devices: int, kind: str, expected: list[str]
) -> None:
    """`count` on each GPU there is, or in host memory."""
    found = placements(staffed(InstanceGroup("g", kind, 2)), uses_gpu=uses_gpu, devices=devices)

    assert [place.name for place in found] == expected
    assert [place.device for place in found] == [
        f"cuda:{name[-1]}" if "gpu" in name else "cpu" for name in expected
    ]


def test_each_seat_knows_what_its_group_needs() -> None:
    """A group's resources are those of each of its instances."""
    needy = group(2, "n", needs=3)

    found = seats(staffed(needy, group(1, "free")), uses_gpu=False, devices=0)

    assert found == (
        Seat(Placement("n_0"), needy.rate_limiter),
        Seat(Placement("n_1"), needy.rate_limiter),
        Seat(Placement("free_0")),
    )


def test_without_groups_there_is_one_instance() -> None:
    """Named after the model."""
    assert placements(config(), uses_gpu=False, devices=0) == (Placement("m_0_0"),)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (InstanceGroup("g", "KIND_GPU", gpus=(2,)), "asks for GPU 2, this machine has 2"),
        (InstanceGroup("g", "KIND_GPU"), "this machine has 0"),
    ],
)
def test_a_device_that_is_not_there_is_named(asked: InstanceGroup, text: str) -> None:
    """The group, the device and how many there are."""
    with pytest.raises(InvalidArgument, match=text):
        placements(staffed(asked), uses_gpu=True, devices=2 if asked.gpus else 0)
