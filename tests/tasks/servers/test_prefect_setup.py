"""What Prefect logs in a process that a worker started for a flow run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import clean_environment, write_tiny

# As Prefect's engine does with a flow that raises: outside of a run these end where they ask for their logger.
SCRIPT = """
import logging, pathlib, sys
from prefect.logging.configuration import setup_logging
from effnet.config import load_config
from flows.{module} import {flow}
setup_logging()
try:
    {flow}.fn({arguments})
except Exception:
    logging.getLogger("prefect.engine").exception("Encountered an exception")
"""
OF_CONFIG = "config=load_config(pathlib.Path(sys.argv[1])), store='store'"
FLOWS = [("run_job", "run_job", "None"), ("build_family", "build_family", OF_CONFIG)]


@pytest.mark.parametrize("of_a_worker", [True, False])
@pytest.mark.parametrize(("module", "flow", "arguments"), FLOWS, ids=[flow for _, flow, _ in FLOWS])
def test_a_workers_process_logs_errors_as_lines(
    tmp_path: Path, module: str, flow: str, arguments: str, of_a_worker: bool
) -> None:
    given = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "TMPDIR": str(tmp_path),
    }
    given |= {"PREFECT__FLOW_RUN_ID": "0" * 32} if of_a_worker else {}
    script = SCRIPT.format(module=module, flow=flow, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script, str(write_tiny(tmp_path))],
        env=clean_environment() | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = done.stdout + done.stderr
    assert "Encountered an exception" in said
    assert ("Traceback" in said) is not of_a_worker
    if of_a_worker:
        (report,) = set(re.findall(r"traceback-\w+\.txt", said))
        (path,) = tmp_path.rglob(report)
        assert "MissingContextError" in path.read_text()
