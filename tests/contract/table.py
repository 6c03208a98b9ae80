"""What the protocol promises, row by row, and the tests that hold it: `rows/*.toml` as values.

A row names tests by their ids, or by the beginnings of these up to a bracket or `::`. Where they
belong to another command than `make test` it names the command; without tests it says why.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOCKETS = (
    "e2e/",
    "rest/",
    "http2/",
    "openai_face/",
    "tgi/",
    "interop/",
    "isolation/test_sequences.py",
    "isolation/test_server.py",
    "isolation/test_traces.py",
    "isolation/test_triton.py",
    "triton_python/test_models.py",
    "server/test_embedded.py",
    "server/test_serve_process.py",
    "server/test_processes.py",
    "faces/",
    "llm/test_encoders_served.py",
    "server/test_cli_",
)
"""Where tests ask a whole server through its port, or run a command."""
ROWS = Path(__file__).with_name("rows")
PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
HEAD = """# What is promised, and what holds it

Every RPC, message, parameter, flag, error and rule of the protocol that this server speaks, and the
tests that fail when it does not hold. `make test` ends with an error if a test of a row did not
pass, and writes this page anew from `tests/contract/rows` (so does `python -m tests.contract`).
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A promise: its section, its words, and what holds it or why nothing does; `run` is the
    command that runs its tests where it is not `make test`, and `below` says why none of them goes
    through a socket.
    """

    section: str
    promise: str
    tests: tuple[str, ...] = ()
    absent: str = ""
    run: str = ""
    below: str = ""

    @property
    def through_a_socket(self) -> bool:
        """Whether a test of it asks a server, or runs a program, from outside."""
        return any(test.startswith(SOCKETS) for test in self.tests)


def read_rows(folder: Path = ROWS) -> list[Row]:
    """The rows in their order. ValueError for one that says neither what holds it nor why nothing
    does, or both.
    """
    rows = []
    for file in sorted(folder.glob("*.toml")):
        for section, entries in tomllib.loads(file.read_text(encoding="utf-8")).items():
            for promise, held in entries.items():
                row = _row(section, promise, held)
                if bool(row.tests) == bool(row.absent):
                    raise ValueError(
                        f"{section} / {promise}: expected tests, or why there are none"
                    )
                rows.append(row)
    return rows


def _row(section: str, promise: str, held: object) -> Row:
    match held:
        case str():
            return Row(section, promise, (held,))
        case list():
            return Row(section, promise, tuple(map(str, held)))
        case {"absent": str(why), **rest} if not rest:
            return Row(section, promise, absent=why)
        case {"tests": list(tests), "run": str(run), **rest} if not rest:
            return Row(section, promise, tuple(map(str, tests)), run=run)
        case {"tests": list(tests), "below": str(below), **rest} if not rest:
            return Row(section, promise, tuple(map(str, tests)), below=below)
        case _:
            raise ValueError(f"{section} / {promise}: {held!r} is neither tests nor absent = why")


def names(identity: str) -> Iterable[str]:
    """What a row may call the test of this id: itself, it without its case, its class, its file."""
    whole = identity.removeprefix("tests/")
    path = whole.partition("[")[0].split("::")
    return {whole, *("::".join(path[:end]) for end in range(1, len(path) + 1))}


def unheld(rows: Iterable[Row], passed: Iterable[str], skipped: Iterable[str] = ()) -> list[str]:
    """What is wrong with each row of which a test neither passed nor was skipped with a reason."""
    held = {name for identity in (*passed, *skipped) for name in names(identity)}
    return [
        f"{row.section} / {row.promise}: none passed of {', '.join(missing)}"
        for row in rows
        if not row.run and (missing := [test for test in row.tests if test not in held])
    ]


def left_out(
    rows: Iterable[Row], passed: Iterable[str], skipped: Mapping[str, str]
) -> dict[str, str]:
    """Rows of which a test did not run here, and the reason that it gave."""
    held = {name for identity in passed for name in names(identity)}
    why = {name: text for identity, text in skipped.items() for name in names(identity)}
    return {
        f"{row.section} / {row.promise}": why[test]
        for row in rows
        for test in row.tests
        if test not in held and test in why
    }


def page(rows: Sequence[Row]) -> str:
    """The rows as a document."""
    absent, elsewhere = sum(bool(row.absent) for row in rows), sum(bool(row.run) for row in rows)
    below = sum(bool(row.below) for row in rows)
    counts = (
        f"\n{len(rows)} promises. {absent} of them have no test, each for the reason that is told; "
        f"the tests of {elsewhere} belong to the command that is named. Those of {below} do not go "
        "through a socket, for the reason that is told.\n"
    )
    parts, section = [HEAD, counts], ""
    for row in rows:
        if row.section != section:
            section = row.section
            parts.append(f"\n## {section}\n\n| promise | held by |\n|---|---|\n")
        parts.append(f"| {_cell(row.promise)} | {_held(row)} |\n")
    return "".join(parts)


def _held(row: Row) -> str:
    if row.absent:
        return f"*no test: {_cell(row.absent)}*"
    run = [f"`{row.run}`:"] if row.run else []
    below = [f"*below the socket: {_cell(row.below)}*"] if row.below else []
    return "<br>".join([*run, *map(_link, row.tests), *below])


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    shown = name.rpartition("::")[2].removeprefix("test_")
    words, bracket, case = shown.partition("[")
    shown = words.replace("_", " ") + (f", {case.removesuffix(']')}" if bracket else "")
    shown = shown or f"all of {Path(file).stem.removeprefix('test_').replace('_', ' ')}"
    return f"[{_cell(shown)}](../tests/{file})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
