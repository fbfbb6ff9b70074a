"""What other programs read of a network and effnet does not: exported programs, and folders of other libraries."""

from __future__ import annotations

import json
from pathlib import Path

from effnet.errors import ConfigError

PROGRAMS = (".onnx", ".pt2")  # ends of names of exported programs
READS = "effnet reads run folders, model folders (`effnet export --format safetensors`) and weights files"


def refuse_program(path: Path) -> None:
    """Raise ConfigError if a file is an exported program, by its name."""
    if path.suffix.lower() in PROGRAMS:
        raise ConfigError(
            f'{path}: an exported program, which runs without effnet: docs/export.md, "Running a file", shows how; '
            f"{READS}"
        )


def refuse_foreign(folder: Path) -> None:
    """Raise ConfigError if a folder is another library's, by its config.json."""
    if library := library_of(folder):
        raise ConfigError(f"{folder}: a folder for {library}, no run; {READS}, as the one in it, with --network")


def library_of(folder: Path) -> str | None:
    """Return the library that a folder's config.json is written for; None if it is a run's, or nobody can tell."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):  # whoever needs it says what is wrong
        return None
    if not isinstance(config, dict):
        return None
    if isinstance(name := config.get("architecture"), str):  # a run's is a mapping
        return f"timm ({name:.80})"
    if isinstance(name := config.get("model_type"), str):
        return f"Hugging Face's transformers ({name:.80})"
    return None
