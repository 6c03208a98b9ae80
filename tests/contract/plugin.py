"""Holds a complete run of the suite against the contract: a row that no test held fails the run."""

from typing import Any

import pytest
from tests.contract.table import read_rows, unheld


class ContractPlugin:
    """Notes which tests passed; judges at the end of a run of everything."""

    def __init__(self, config: pytest.Config) -> None:
        self._whole = not (
            config.option.keyword
            or config.option.collectonly
            or config.getoption("--transport")
            or list(config.args) != list(config.getini("testpaths"))
        )
        self._passed: list[str] = []
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passed if it was called and nothing was raised."""
        if report.when == "call" and report.passed:
            self._passed.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, if all ran and nothing failed: what failed is told already."""
        if self._whole and session.exitstatus == pytest.ExitCode.OK:
            self._problems = unheld(read_rows(), self._passed)
            if self._problems:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which promises nothing held."""
        if self._problems:
            terminalreporter.section("promises of tests/contract/rows.toml that no test held")
            for problem in self._problems:
                terminalreporter.line(problem, red=True)


def install(config: pytest.Config) -> None:
    """In the process that hears of every test, which is not one of several that run them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ContractPlugin(config), "contract")
