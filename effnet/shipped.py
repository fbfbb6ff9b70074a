"""Files that come with effnet besides its code: configs, prefect.yaml and job templates.

In a clone they lie at its root, where people look for them; a wheel has them in effnet/project (pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).with_name("project")
PROJECT = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1]  # with prefect.yaml, configs, infra/prefect
CONFIGS = PROJECT / "configs"


def shipped_config(name: str) -> Path:
    """Return where the config of that name is, if there is one."""
    return CONFIGS / f"{name}.yaml"


def shipped_configs() -> list[str]:
    """Return the names of the configs that come with effnet."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
