"""What the protocol promises, row by row, and the tests that hold it: `rows.toml` as values.

A row names its tests by the beginning of their ids; one without tests says why there is none.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROWS = Path(__file__).with_name("rows.toml")
PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
HEAD = """# What is promised, and what holds it

Every RPC, message, parameter, flag, error and rule of the protocol that this server speaks, and the tests that fail when it does not hold;
`make test` ends with an error if a row has no test that passed. Made of `tests/contract/rows.toml` by `python -m tests.contract`.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A promise: its section, its words, what holds it or why nothing does."""

    section: str
    promise: str
    tests: tuple[str, ...] = ()
    absent: str = ""


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows in their order. ValueError for one that says neither or both."""
    rows = []
    for section, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for promise, held in entries.items():
            row = _row(section, promise, held)
            if bool(row.tests) == bool(row.absent):
                raise ValueError(f"{section} / {promise}: expected tests, or why there are none")
            rows.append(row)
    return rows


def _row(section: str, promise: str, held: object) -> Row:
    if isinstance(held, str):
        return Row(section, promise, (held,))
    if isinstance(held, Mapping):
        return Row(section, promise, absent=str(held["absent"]))
    if isinstance(held, list):
        return Row(section, promise, tuple(map(str, held)))
    raise ValueError(f"{section} / {promise}: expected a test, a list of tests or absent = why")


def matches(row: Row, ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids that each of a row's beginnings stands for."""
    ids = list(ids)
    return {test: [each for each in ids if _is(each, test)] for test in row.tests}


def _is(identity: str, test: str) -> bool:
    return identity == f"tests/{test}" or identity.startswith((f"tests/{test}[", f"tests/{test}::"))


def unheld(rows: Iterable[Row], passed: Sequence[str]) -> list[str]:
    """What is wrong with each row that some test of its own did not hold."""
    problems = []
    for row in rows:
        missing = [test for test, found in matches(row, passed).items() if not found]
        if missing:
            problems.append(f"{row.section} / {row.promise}: none passed of {', '.join(missing)}")
    return problems


def page(rows: Iterable[Row]) -> str:
    """The rows as a document."""
    parts, section = [HEAD], ""
    for row in rows:
        if row.section != section:
            section = row.section
            parts.append(f"\n## {section}\n\n| promise | held by |\n|---|---|\n")
        parts.append(f"| {_cell(row.promise)} | {_held(row)} |\n")
    return "".join(parts)


def _held(row: Row) -> str:
    if row.absent:
        return f"*not here: {_cell(row.absent)}*"
    return "<br>".join(_link(test) for test in row.tests)


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[{_cell(name or Path(file).stem)}](../tests/{file})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
