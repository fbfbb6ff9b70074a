"""What the tests of flows share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.servers import PrefectApi


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's empty database, made once: that takes longer than anything else here. Copy it to STORE/prefect."""
    root = tmp_path_factory.mktemp("prefect")
    with PrefectApi(root, None) as api:
        api.url()
    return root / "prefect"
