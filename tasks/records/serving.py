"""A registered model as MLflow loads and serves it: effnet's Predictor, which answers bad input with an error.

MLflow calls `_load_pyfunc` by name. No code from a model is run: it is only tensors and JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from effnet.errors import EffnetError
from effnet.evaluation.predictor import load_predictor


class Refused(MlflowException):  # type: ignore[misc]
    """Images that the model cannot take: status 400 over HTTP, with one line."""

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(line, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """What was wrong. MLflow's server would set the whole input before it, images and all."""
        return self._line

    @message.setter
    def message(self, _text: str) -> None:
        pass


class Served:
    """A Predictor for mlflow.pyfunc."""

    def __init__(self, folder: Path) -> None:
        self._predictor = load_predictor(folder)

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Answer images; see effnet.evaluation.predictor.Predictor.predict."""
        try:
            return self._predictor.predict(images, params)
        except EffnetError as error:
            raise Refused(str(error)) from error


def _load_pyfunc(path: str) -> Served:
    return Served(Path(path))
