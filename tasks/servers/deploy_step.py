"""`effnet deploy`: work pools and deployments on a Prefect server, as prefect.yaml and infra/prefect say."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_config(path: str, changes: dict[str, Any] | None = None, base: str | None = None) -> dict[str, Any]:
    """Load a family's config for a deployment's parameters: a build step of prefect.yaml.

    Args:
        path: of the config, relative to prefect.yaml.
        changes: keys of the config to replace, such as `compute`.
        base: folder that the config's relative paths begin at where the flow runs, if it is not the config's own.
    """
    from effnet.config import FamilyConfig
    from effnet.values import read_mapping

    config = {**read_mapping(Path(path)), **(changes or {})}
    FamilyConfig.parse(config, path)
    return {"config": config, "base": base or str(Path(path).absolute().parent)}
