"""The benchmarks keep a record that only ever grows."""

from benchmarks.report import HEAD, RULE, spread, with_row


def test_the_first_row_brings_its_table() -> None:
    """A document without our table gets one behind what it says."""
    text = with_row("# Measured\n\nBy hand: 42.\n", "| a |")

    assert text == f"# Measured\n\nBy hand: 42.\n\n{HEAD}\n{RULE}\n| a |\n"


def test_a_row_joins_the_table_wherever_it_stands() -> None:
    """What stands behind the table stays behind it, and no row is lost."""
    text = with_row(f"{HEAD}\n{RULE}\n| a |\n\nMore words.\n", "| b |")

    assert text == f"{HEAD}\n{RULE}\n| a |\n| b |\n\nMore words.\n"


def test_a_spread_is_median_and_range() -> None:
    """Several runs become one figure that shows how far they lay apart."""
    shown = spread([3.0, 1.0, 2.0], "s", 1)

    assert shown == "2.0 s (1.0 to 3.0)"
