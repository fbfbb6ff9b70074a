"""The S3 servers, and the tables of what was broken."""

import pytest

from tests.faults.counts import TABLES
from tests.s3_servers import bucket, moto_url, owner, real_bucket, rgw

__all__ = ["bucket", "moto_url", "owner", "real_bucket", "rgw"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table in TABLES:
        terminalreporter.write_line(table)
