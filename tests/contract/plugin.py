"""Holds a complete run of the suite against the contract: a row that no test held fails the run.

Of a run in several processes it lives in the one that hears of every test.
"""

from typing import Any

import pytest
from tests.contract.table import PAGE, left_out, page, read_rows, unheld


class ContractPlugin:
    """Notes which tests passed; judges at the end of a run of everything, and writes the page."""

    def __init__(self, config: pytest.Config) -> None:
        self._whole = is_whole(config)
        self._passed: list[str] = []
        self._skipped: dict[str, str] = {}
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passed if it was called and nothing was raised."""
        if report.skipped:
            self._skipped[report.nodeid] = _reason(report)
        elif report.when == "call" and report.passed:
            self._passed.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, if all ran and nothing failed: what failed is told already."""
        if not self._whole:
            return
        rows = read_rows()
        text = page(rows)
        if PAGE.read_text(encoding="utf-8") != text:
            PAGE.write_text(text, encoding="utf-8")
        if session.exitstatus == pytest.ExitCode.OK:
            self._problems = unheld(rows, self._passed, self._skipped)
            if self._problems:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which promises nothing held, and which could not be looked at here."""
        if self._problems:
            terminalreporter.section("promises of tests/contract/rows that no test held")
            for problem in self._problems:
                terminalreporter.line(problem, red=True)
        skipped = left_out(read_rows(), self._passed, self._skipped) if self._whole else {}
        if skipped:
            terminalreporter.section("promises whose tests were skipped")
            for promise, reason in skipped.items():
                terminalreporter.line(f"{promise}: {reason}")


def is_whole(config: pytest.Config) -> bool:
    """Whether everything runs, but for what is left out by its mark: soak, gpu, interop."""
    option = config.option
    chosen = (
        option.keyword,
        option.collectonly,
        option.transport,
        option.deselect,
        option.ignore,
        option.ignore_glob,
        getattr(option, "lf", False),
    )
    marks = option.markexpr.split(" and ") if option.markexpr else []
    return (
        not any(chosen)
        and all(mark.startswith("not ") for mark in marks)
        and list(config.args) == list(config.getini("testpaths"))
    )


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    return str(where[2]) if isinstance(where, tuple) else str(where)


def install(config: pytest.Config) -> None:
    """In the process that hears of every test, which is not one of several that run them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ContractPlugin(config), "contract")
