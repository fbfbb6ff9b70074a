"""Compound-scaled families of image models, from images and a budget: the library (docs/api.md).

What most people need is here by name, and imported when it is asked for: `import effnet` alone imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effnet.arch import zoo
    from effnet.arch.cost import count
    from effnet.arch.scaling import Coefficients, Multipliers, scale
    from effnet.data.loader import Loader
    from effnet.data.shards.verification import verify
    from effnet.data.shards.write import write_shards
    from effnet.evaluation.predictor import Predictor
    from effnet.models.build import build
    from effnet.models.weights import load

    __version__: str

__all__ = [
    "Coefficients",
    "Loader",
    "Multipliers",
    "Predictor",
    "__version__",
    "build",
    "count",
    "load",
    "scale",
    "verify",
    "write_shards",
    "zoo",
]

_HOMES = {
    "Coefficients": "effnet.arch.scaling",
    "Loader": "effnet.data.loader",
    "Multipliers": "effnet.arch.scaling",
    "Predictor": "effnet.evaluation.predictor",
    "build": "effnet.models.build",
    "count": "effnet.arch.cost",
    "load": "effnet.models.weights",
    "scale": "effnet.arch.scaling",
    "verify": "effnet.data.shards.verification",
    "write_shards": "effnet.data.shards.write",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, the first time (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("effnet")
    elif name == "zoo":
        found = import_module("effnet.arch.zoo")
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
