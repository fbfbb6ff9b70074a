"""For models that were registered while tasks.records.serving was called so: mlflow.pyfunc imports what they name."""

from __future__ import annotations

from tasks.records.serving import _load_pyfunc

__all__ = ["_load_pyfunc"]
