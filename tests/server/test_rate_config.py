"""What the flags of the rate limiter mean, and what is said of those that mean nothing."""

import logging

import pytest

from penstock.config_sources import read_options
from penstock.rate_config import rate_totals
from penstock_runtime.errors import InvalidArgument

ON = "--rate-limit=execution_count"


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, None),
        (["--rate-limit=off"], {}, None),
        ([ON], {}, {}),
        ([ON, "--rate-limit-resource=R1:4"], {}, {("r1", None): 4}),
        (
            [ON, "--rate-limit-resource=R1:4:0", "--rate-limit-resource=R1:2:1"],
            {},
            {("r1", 0): 4, ("r1", 1): 2},
        ),
        ([ON, "--rate-limit-resource=a:1", "--rate-limit-resource=A:2"], {}, {("a", None): 2}),
        (
            [],
            {
                "PENSTOCK_RATE_LIMIT": "execution_count",
                "PENSTOCK_RATE_LIMIT_RESOURCE": "a:1,b:2:3",
            },
            {("a", None): 1, ("b", 3): 2},
        ),
    ],
)
def test_tritons_flags_mean_what_they_mean_there(
    argv: list[str], environ: dict[str, str], expected: object
) -> None:
    """Off unless asked for; names in any case, the last word of several, a device if given."""
    options = read_options(argv, environ)

    assert rate_totals(options.rate_limit, options.rate_limit_resource) == expected


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        ("R1", "expected NAME:COUNT or NAME:COUNT:DEVICE"),
        (":4", "expected NAME:COUNT"),
        ("a:1:0:0", "expected NAME:COUNT"),
        ("a:many", "COUNT is 'many'"),
        ("a:0", "COUNT is 0, expected 1 to 2147483647"),
        ("a:9999999999", "COUNT is 9999999999, expected 1"),
        ("a:1:gpu", "DEVICE is 'gpu'"),
        ("a:1:-1", "DEVICE is '-1'"),
    ],
)
def test_a_resource_that_says_nothing_is_named(resource: str, said: str) -> None:
    """What was given, and what was expected; whether it is on or off."""
    with pytest.raises(InvalidArgument, match="--rate-limit-resource") as refused:
        rate_totals("off", [resource])

    assert said in refused.value.message


def test_resources_without_a_limiter_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Triton starts so; the log says that nothing is limited."""
    with caplog.at_level(logging.WARNING, "penstock.server"):
        assert rate_totals("off", ["a:1"]) is None

    assert "has no effect without --rate-limit=execution_count" in caplog.text
