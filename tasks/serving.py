"""Old name of tasks.records.serving, for models registered under it: mlflow.pyfunc imports the module they name."""

from __future__ import annotations

from tasks.records.serving import _load_pyfunc

__all__ = ["_load_pyfunc"]
