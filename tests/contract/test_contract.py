"""Laws of the table of promises."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.plugin import is_whole
from tests.contract.table import PAGE, Row, left_out, page, read_rows, unheld

from penstock.config import FLAGS
from penstock.rpc import TABLE


def test_the_page_is_that_of_the_rows() -> None:
    """Made anew by a run of the whole suite, or by `python -m tests.contract`."""
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


def test_a_promise_is_held_through_a_socket_or_it_is_said_why_not() -> None:
    """And that is said of no other."""
    silent = [row.promise for row in read_rows() if row.tests and not row.through_a_socket]
    said = [row.promise for row in read_rows() if row.below]

    assert silent == said


def test_no_promise_stands_twice_in_a_section() -> None:
    """Or one of the two would be looked at by nobody."""
    rows = [(row.section, row.promise) for row in read_rows()]

    assert len(set(rows)) == len(rows)


def test_what_another_command_runs_is_not_run_by_this_one() -> None:
    """A row leans on another command only for tests that `make test` leaves out by their mark."""
    root = Path(__file__).parents[1]
    marked = {
        row.promise: [
            "pytest.mark.interop" in (root / test.partition("::")[0]).read_text(encoding="utf-8")
            for test in row.tests
        ]
        for row in read_rows()
        if row.run
    }

    assert marked
    assert all(all(found) for found in marked.values())


def test_a_row_is_held_by_each_of_its_tests_in_any_of_their_cases() -> None:
    """A file holds it with all its tests, a class with its own; one case may be named alone."""
    row = Row("s", "p", ("a/test_x.py::test_one", "a/test_y.py", "a/test_z.py::T::test[a::b]"))
    passed = [
        "tests/a/test_x.py::test_one[http2]",
        "tests/a/test_y.py::test_any",
        "tests/a/test_z.py::T::test[a::b]",
    ]

    assert unheld([row], passed) == []
    assert unheld([row], passed[:1]) == [
        "s / p: none passed of a/test_y.py, a/test_z.py::T::test[a::b]"
    ]
    assert unheld([Row("s", "p", ("a/test_x.py::test",))], passed)
    assert unheld([Row("s", "p", ("a/test_z.py::T",))], passed) == []


def test_what_was_skipped_is_told_with_its_reason() -> None:
    """It does not fail a run on a machine that lacks something; nor is it told once it passed."""
    row, skipped = Row("s", "p", ("a.py::test",)), {"tests/a.py::test[1]": "no such library"}

    assert unheld([row], [], skipped) == []
    assert left_out([row], [], skipped) == {"s / p": "no such library"}
    assert left_out([row], ["tests/a.py::test[2]"], skipped) == {}


def test_a_row_says_what_holds_it_or_why_nothing_does(tmp_path: Path) -> None:
    """Nothing is left empty."""
    (tmp_path / "1.toml").write_text(
        '["S"]\n"held" = "a.py"\n"not" = { absent = "needs a GPU" }\n'
        '"far" = { run = "make far", tests = ["b.py"] }\n'
        '"deep" = { below = "a law of numbers", tests = ["c.py"] }\n'
    )
    rows = read_rows(tmp_path)
    (tmp_path / "2.toml").write_text('["S"]\n"empty" = []\n')

    assert [(row.tests, row.absent, row.run) for row in rows] == [
        (("a.py",), "", ""),
        ((), "needs a GPU", ""),
        (("b.py",), "", "make far"),
        (("c.py",), "", ""),
    ]
    assert "*below the socket: a law of numbers*" in page(rows)
    assert "*no test: needs a GPU*" in page(rows)
    assert "`make far`:<br>[all of b](../tests/b.py)" in page(rows)
    assert unheld(rows, ["tests/a.py::test", "tests/c.py::test"]) == []
    with pytest.raises(ValueError, match="S / empty: expected tests"):
        read_rows(tmp_path)


@pytest.mark.parametrize("held", ["3", "{ absent = 1 }", '{ tests = ["a"] }', "{ run = 'x' }"])
def test_anything_else_is_no_row(tmp_path: Path, held: str) -> None:
    """A word that is misspelt is not taken for nothing."""
    (tmp_path / "1.toml").write_text(f'["S"]\n"odd" = {held}\n')

    with pytest.raises(ValueError, match=r"S / odd: .* is neither tests nor absent"):
        read_rows(tmp_path)


def option(**more: object) -> SimpleNamespace:
    """The options of a run of everything but what is marked, some of them others."""
    usual: dict[str, object] = dict.fromkeys(
        ("keyword", "collectonly", "transport", "deselect", "ignore", "ignore_glob", "lf")
    )
    return SimpleNamespace(**{**usual, "markexpr": "not soak and not gpu", **more})


@pytest.mark.parametrize(
    ("more", "args", "whole"),
    [
        ({}, ["tests"], True),
        ({"markexpr": ""}, ["tests"], True),
        ({"markexpr": "soak"}, ["tests"], False),
        ({"markexpr": "not gpu and soak"}, ["tests"], False),
        ({"keyword": "http"}, ["tests"], False),
        ({"transport": "grpcio"}, ["tests"], False),
        ({"lf": True}, ["tests"], False),
        ({"ignore": ["tests/rest"]}, ["tests"], False),
        ({}, ["tests/rest"], False),
    ],
)
def test_only_a_run_of_everything_is_judged(
    more: dict[str, object], args: list[str], whole: bool
) -> None:
    """But for what its mark leaves out."""
    config: Any = SimpleNamespace(option=option(**more), args=args, getini=lambda _: ["tests"])

    assert is_whole(config) is whole
