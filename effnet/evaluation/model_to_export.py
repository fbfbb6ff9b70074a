"""A model that is to be exported, and what its files say of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from effnet.config import FamilyConfig
from effnet.data.images.decode import padding_at
from effnet.data.shards.manifest import load_manifest
from effnet.errors import DataError
from effnet.evaluation.predictor import Predictor, open_predictor
from effnet.models.deployed import Metadata
from effnet.runs import RunFolder, read_value


class ModelToExport(NamedTuple):
    """A model."""

    predictor: Predictor
    metadata: Metadata
    run: RunFolder | None  # that it is of
    dataset: Path | None  # that it was trained on, if that is here


def open_to_export(
    folder: Path, *, preprocessing: bool = False, any_size: bool = False, precision: str = "float32"
) -> ModelToExport:
    """Read a run's folder or a model folder; see `open_predictor` for what is raised."""
    predictor = open_predictor(folder)
    arch = predictor.network.architecture
    padding = padding_at(arch.resolution, predictor.crop_padding)
    asked = {"preprocessing": preprocessing, "any_size": any_size, "precision": precision}
    metadata = Metadata.of(arch, predictor.class_names, padding).model_copy(update=asked)
    if not (folder / "config.json").is_file():
        return ModelToExport(predictor, metadata, None, None)
    run = RunFolder(folder)
    digest, about = run.spec().dataset, run.about()
    dataset = run.store.datasets / digest
    origin: dict[str, str | None] = {"run": run.key, "dataset": digest, "licence": licence_of(run)}
    if about:
        origin |= {"family": about.experiment, "member": about.network}
    there = load_manifest(dataset) is not None
    return ModelToExport(predictor, metadata.model_copy(update=origin), run, dataset if there else None)


def licence_of(run: RunFolder) -> str | None:
    """Return the licence of the images, as the config of the run's family states it; None if nobody knows."""
    if (about := run.about()) is None:
        return None
    try:
        config = read_value(FamilyConfig, run.store.families / about.family / "config.json")
    except DataError:  # another version's
        return None
    return config.licence if config else None
