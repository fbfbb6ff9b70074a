"""The tables of what was broken, at the end of the run."""

import pytest

from tests.faults.counts import TABLES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table in TABLES:
        terminalreporter.write_line(table)
