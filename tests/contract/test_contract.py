"""Laws of the table of promises."""

from pathlib import Path

import pytest
from tests.contract.table import PAGE, Row, matches, page, read_rows, unheld

from penstock.config import FLAGS
from penstock.rpc import TABLE


def test_the_page_is_that_of_the_rows() -> None:
    """Made anew by `python -m tests.contract`."""
    assert PAGE.read_text(encoding="utf-8") == page(read_rows())


def test_every_file_that_a_row_names_is_there() -> None:
    """And the function in it; whether it passed is judged at the end of a run."""
    root = Path(__file__).parents[1]
    missing = []
    for row in read_rows():
        for test in row.tests:
            file, _, name = test.partition("::")
            path = root / file
            function = name.partition("[")[0].rpartition("::")[2]
            if not path.is_file() or function not in path.read_text(encoding="utf-8"):
                missing.append(test)

    assert not missing


def test_every_method_of_the_table_of_rpcs_has_a_row() -> None:
    """None is served that nobody holds to anything."""
    promises = {row.promise for row in read_rows() if row.section == "RPCs"}

    assert {rpc.name for rpc in TABLE} <= promises


def test_every_flag_has_a_row() -> None:
    """As `penstock serve --help` lists them."""
    promises = {row.promise for row in read_rows() if row.section == "Flags"}

    assert {f"--{flag.name}" for flag in FLAGS} <= promises


def test_no_promise_stands_twice_in_a_section() -> None:
    """Or one of the two would be looked at by nobody."""
    rows = [(row.section, row.promise) for row in read_rows()]

    assert len(set(rows)) == len(rows)


def test_a_row_is_held_by_each_of_its_tests_in_any_of_their_cases() -> None:
    """A file holds it with all its tests."""
    row = Row("s", "p", ("a/test_x.py::test_one", "a/test_y.py"))
    passed = ["tests/a/test_x.py::test_one[http2]", "tests/a/test_y.py::test_any"]

    assert unheld([row], passed) == []
    assert unheld([row], passed[:1]) == ["s / p: none passed of a/test_y.py"]
    assert matches(row, ["tests/a/test_x.py::test_one_more"])["a/test_x.py::test_one"] == []


def test_a_row_says_what_holds_it_or_why_nothing_does(tmp_path: Path) -> None:
    """Nothing is left empty."""
    file = tmp_path / "rows.toml"
    file.write_text('["S"]\n"held" = "a.py"\n"not" = { absent = "needs a GPU" }\n')
    empty = tmp_path / "empty.toml"
    empty.write_text('["S"]\n"empty" = []\n')

    rows = read_rows(file)

    assert [(row.tests, row.absent) for row in rows] == [(("a.py",), ""), ((), "needs a GPU")]
    assert "*not here: needs a GPU*" in page(rows)
    with pytest.raises(ValueError, match="S / empty: expected tests"):
        read_rows(empty)
