"""What the tests with foreign clients share: servers, and the table of what was met."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.places import Servers
from tests.interop.table import Table

TABLE_FILE = "PENSTOCK_INTEROP_TABLE"
HEAD = """# Who was met

Written by `make interop`; tests/interop/README.md says what the cases are.
"""
_TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Every server of this run."""
    with Servers(tmp_path_factory.mktemp("interop")) as made:
        yield made


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Where every test says how it went."""
    return pytestconfig.stash.setdefault(_TABLE, Table())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the table, and write it to the file that the environment names."""
    path, table = os.environ.get(TABLE_FILE), config.stash.get(_TABLE, None)
    if path and table is not None:
        Path(path).write_text(f"{HEAD}\n{table.markdown()}")
        terminalreporter.section("clients")
        terminalreporter.write_line(table.markdown())
